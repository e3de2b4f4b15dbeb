"""Feature pyramid networks (Lin et al., CVPR 2017, arXiv 1612.03144).

Coarse maps know what is there, fine maps know where: from the top down each coarse map is doubled in size and added
to the 1 x 1 projected map below; a 3 x 3 convolution smooths every sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features

Norm = Callable[[int], nn.Module]
"""Channels -> a normalization layer."""


@dataclass(frozen=True)
class Pyramid:
    """What papers vary about a pyramid. Defaults: Faster R-CNN's, five levels of strides 4 ... 64."""

    channels: int = 256
    """Of every level."""
    first: int = 0
    """Leave out so many of the backbone's finest maps: 1 starts at stride 8 (RetinaNet, FCOS, YOLACT)."""
    extra: Literal["pool", "convs"] | None = "pool"
    """``pool`` adds one level by sub-sampling the coarsest (Faster R-CNN, SOLO), ``convs`` adds ``num_convs`` by
    strided 3 x 3 convolutions (P6, P7 of RetinaNet and FCOS), None adds nothing."""
    num_convs: int = 2
    convs_of: Literal["backbone", "pyramid"] = "pyramid"
    """Whether the first of these convolutions reads the backbone's last map (C5) or the pyramid's (P5)."""
    convs_relu: bool = True
    """Each following one reads what came before through a ReLU; with ``first_relu`` the first does too."""
    first_relu: bool = False
    merge: Literal["sum", "mean"] = "sum"
    upsample: Literal["nearest", "bilinear"] = "nearest"
    norm: Norm | None = None
    """Makes a normalization layer behind every convolution, which then has no bias."""


class FPN(nn.Module):
    """A backbone with a pyramid on top.

    Args:
        backbone: gives Features; see :mod:`eachmask.backbones.networks`.
        pyramid: its form.
    """

    def __init__(self, backbone: Any, pyramid: Pyramid | None = None) -> None:
        super().__init__()
        self.pyramid = p = pyramid or Pyramid()
        self.put_on(backbone)
        strides = tuple(backbone.strides)[p.first :]
        self.smooth = nn.ModuleList(_conv(p.channels, p.channels, 3, p.norm) for _ in strides)
        num_extra = {"pool": 1, "convs": p.num_convs, None: 0}[p.extra]
        if p.extra == "convs":
            sources = [backbone.channels[-1] if p.convs_of == "backbone" else p.channels, *[p.channels] * num_extra]
            self.extra = nn.ModuleList(_conv(sources[i], p.channels, 3, None, stride=2) for i in range(num_extra))
        self.strides = strides + tuple(strides[-1] * 2 ** (i + 1) for i in range(num_extra))
        self.channels = (p.channels,) * len(self.strides)

    def put_on(self, backbone: Any) -> None:
        """Stand on a backbone, in place of the one before; what reads its maps is new.

        Args:
            backbone: with maps of the same strides as the one before.
        """
        p = self.pyramid
        self.backbone = backbone
        self.lateral = nn.ModuleList(_conv(c, p.channels, 1, p.norm) for c in tuple(backbone.channels)[p.first :])
        if p.extra == "convs" and p.convs_of == "backbone" and hasattr(self, "extra"):
            self.extra[0] = _conv(backbone.channels[-1], p.channels, 3, None, stride=2)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> levels from the chosen stride on."""
        maps = self.backbone(images).maps[self.pyramid.first :]
        x = self.lateral[-1](maps[-1])
        levels = [self.smooth[-1](x)]
        for i in range(len(maps) - 2, -1, -1):
            x = self.merged(i, maps[i], x)
            levels.insert(0, self.smooth[i](x))
        return self.with_extra(levels, maps[-1])

    def merged(self, index: int, below: Tensor, above: Tensor) -> Tensor:
        """The projected map of a level plus the doubled one above it."""
        result: Tensor = self.lateral[index](below) + self.doubled(above, below)
        return result / 2 if self.pyramid.merge == "mean" else result

    def doubled(self, above: Tensor, below: Tensor) -> Tensor:
        """The coarser map in the size of the finer one."""
        mode = self.pyramid.upsample
        corners = False if mode == "bilinear" else None
        return F.interpolate(above, size=below.shape[-2:], mode=mode, align_corners=corners)

    def with_extra(self, levels: list[Tensor], coarsest: Tensor) -> Features:
        """The levels and those made of the coarsest.

        Args:
            coarsest: the backbone's last map.
        """
        p = self.pyramid
        if p.extra == "pool":
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        elif p.extra == "convs":
            x = coarsest if p.convs_of == "backbone" else levels[-1]
            for i, conv in enumerate(self.extra):
                relu = p.first_relu if i == 0 else p.convs_relu
                x = conv(torch.relu(x) if relu else x)
                levels.append(x)
        return Features(tuple(levels), self.strides, self.channels)


def _conv(in_channels: int, out_channels: int, kernel: int, norm: Norm | None, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv if norm is None else nn.Sequential(conv, norm(out_channels))
