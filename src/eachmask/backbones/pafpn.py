"""Path aggregation: a second pyramid from the bottom up on top of the feature pyramid.

Liu, Qi, Qin, Shi, Jia: "Path Aggregation Network for Instance Segmentation", CVPR 2018, arXiv 1803.01534, section 3.1.

A fine map's edges reach the coarsest map of an FPN only through the whole backbone, a hundred layers; here they take a
short cut of a few strided convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN, Norm, Pyramid


@dataclass(frozen=True)
class BottomUp:
    """The form of the second path. Defaults are the paper's."""

    relu: bool = True
    """Behind every convolution of the path (paper, section 3.1)."""
    chained: bool = True
    """The next map is made of the finished one; otherwise of the sum before its last convolution (MMDetection)."""
    norm: Norm | None = None
    """Makes a normalization layer behind every convolution of the path, which then has no bias."""


PLAIN = BottomUp(relu=False, chained=False)
"""MMDetection's ``PAFPN``: sums and convolutions only."""


class PAFPN(FPN):
    """A feature pyramid with a path from the bottom up: N2 = P2, N(i + 1) = conv(P(i + 1) + strided_conv(N(i))).

    Args:
        backbone: gives Features; see :mod:`eachmask.backbones.networks`.
        pyramid: form of the first pyramid; its extra levels are made of the last N.
        bottom_up: form of the second.
    """

    def __init__(self, backbone: nn.Module, pyramid: Pyramid | None = None, bottom_up: BottomUp | None = None) -> None:
        super().__init__(backbone, pyramid)
        self.bottom_up = path = bottom_up or BottomUp()
        channels = self.pyramid.channels
        num_steps = len(self.lateral) - 1
        self.down = nn.ModuleList(_conv(channels, 2, path) for _ in range(num_steps))
        self.finish = nn.ModuleList(_conv(channels, 1, path) for _ in range(num_steps))

    def with_extra(self, levels: list[Tensor], coarsest: Tensor) -> Features:
        """The second path over the levels P2, P3, ..., then the extra levels.

        Args:
            coarsest: the backbone's last map.
        """
        results = [levels[0]]
        below = levels[0]
        for level, down, finish in zip(levels[1:], self.down, self.finish, strict=True):
            total = level + down(below)
            results.append(finish(total))
            below = results[-1] if self.bottom_up.chained else total
        return super().with_extra(results, coarsest)


def _conv(channels: int, stride: int, path: BottomUp) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=path.norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers: list[nn.Module] = [conv]
    if path.norm is not None:
        layers.append(path.norm(channels))
    if path.relu:
        layers.append(nn.ReLU(inplace=True))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
