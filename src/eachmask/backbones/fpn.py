"""Feature pyramid networks (Lin et al., CVPR 2017, arXiv 1612.03144).

Coarse maps know what is there, fine maps know where: from the top down each coarse map is doubled in size and added
to the 1 x 1 projected map below; a 3 x 3 convolution smooths every sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features


class FPN(nn.Module):
    """A body with a pyramid on top.

    Args:
        body: gives Features; see :mod:`eachmask.backbones.bodies`.
        channels: of every level.
        extra: ``pool`` adds one level by sub-sampling the coarsest (Faster R-CNN), ``convs`` two by strided 3 x 3
            convolutions of the last output (P6, P7 of RetinaNet and FCOS), None adds nothing.
        norm: makes a normalisation layer behind every convolution, which then has no bias.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: int = 256,
        extra: Literal["pool", "convs"] | None = "pool",
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.lateral = nn.ModuleList(_conv(c, channels, 1, norm) for c in body.channels)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in body.channels)
        self.extra = extra
        if extra == "convs":
            self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        num_extra = {"pool": 1, "convs": 2, None: 0}[extra]
        strides: tuple[int, ...] = tuple(body.strides)
        self.strides = strides + tuple(strides[-1] * 2 ** (i + 1) for i in range(num_extra))
        self.channels = (channels,) * len(self.strides)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> levels from the body's finest stride on."""
        maps = self.body(images).maps
        x = self.lateral[-1](maps[-1])
        levels = [self.smooth[-1](x)]
        for i in range(len(maps) - 2, -1, -1):
            below = self.lateral[i](maps[i])
            x = below + F.interpolate(x, size=below.shape[-2:], mode="nearest")
            levels.insert(0, self.smooth[i](x))
        return self.with_extra(levels)

    def with_extra(self, levels: list[Tensor]) -> Features:
        """The levels and those that ``extra`` makes of the coarsest."""
        if self.extra == "pool":
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        elif self.extra == "convs":
            levels.append(self.p6(levels[-1]))
            levels.append(self.p7(torch.relu(levels[-1])))
        return Features(tuple(levels), self.strides, self.channels)


def _conv(in_channels: int, out_channels: int, kernel: int, norm: Callable[[int], nn.Module] | None) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv if norm is None else nn.Sequential(conv, norm(out_channels))
