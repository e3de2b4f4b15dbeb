"""The feature pyramid, exchanged whole: the lateral convolutions add to the upsampled map in their own write."""

from __future__ import annotations

from torch import Tensor, nn

from eachmask.backbones.fpn import FPN
from eachmask.backbones.fuse.conv import FastConv2d


class FastFPN(FPN):
    """A pyramid whose 1x1 convolutions add to the upsampled map in their own write."""

    def merged(self, index: int, below: Tensor, above: Tensor) -> Tensor:
        """As `FPN.merged`."""
        lateral = _only_conv(self.lateral[index])
        if lateral is None or self.pyramid.merge != "sum":
            return super().merged(index, below, above)
        return lateral.add_to(self.doubled(above, below), below)


def can_be_fast(pyramid: nn.Module) -> bool:
    """Whether this is a plain pyramid of folded convolutions: its class can then become :class:`FastFPN`."""
    return type(pyramid) is FPN and all(_only_conv(module) is not None for module in pyramid.lateral)


def _only_conv(module: nn.Module) -> FastConv2d | None:
    """The convolution that `module` is, or that alone is left of it after folding."""
    first, *rest = list(module) if type(module) is nn.Sequential else [module]
    return first if type(first) is FastConv2d and all(type(part) is nn.Identity for part in rest) else None
