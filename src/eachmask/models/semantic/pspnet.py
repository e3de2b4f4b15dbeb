"""PSPNet: each place is told what the image has as a whole and in its halves, thirds and sixths.

Zhao, Shi, Qi, Wang, Jia: "Pyramid Scene Parsing Network", CVPR 2017, arXiv 1612.01105.

The idea: a boat on a lake is taken for a car where only the boat is seen. A dilated network's last map is averaged over
1 x 1, 2 x 2, 3 x 3 and 6 x 6 parts of the image; each average passes a 1 x 1 convolution, is enlarged again and stands
beside the map. One convolution joins them, and the classes follow.

The same numbers as MMSegmentation's ``pspnet_r50-d8`` (see ``tests/parity``). Where we differ from the paper: as there,
each part of the pyramid has as many channels as the head instead of a quarter of the map's.

Shapes: B images of H x W px, K classes, C channels of the last map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.models.config import changed
from eachmask.models.semantic.deeplabv3 import Dilated, DilatedConfig, conv_bn_relu
from eachmask.models.semantic.labeling import PixelLoss, resized


@dataclass(frozen=True)
class Config(DilatedConfig):
    """What a variant may change."""

    scales: tuple[int, ...] = (1, 2, 3, 6)
    """Parts per side over which the map is averaged."""
    width: int = 512
    dropout: float = 0.1
    align_corners: bool = False
    """Maps are resized with their corners aligned, as the models for 769 x 769 px are trained."""


class PSPNet(Dilated):
    """A dilated backbone and a pyramid of averages."""

    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__(num_classes, config)
        self.aligned = config.align_corners

    def head(self, channels: int) -> nn.Module:
        """The pyramid, dropout and the classes."""
        c = self.config
        pyramid = PyramidPooling(channels, c.width, c.scales, c.align_corners)
        return nn.Sequential(pyramid, nn.Dropout2d(c.dropout), nn.Conv2d(c.width, self.num_classes, 1))


class PyramidPooling(nn.Module):
    """Averages of a map at several scales beside it, joined (section 3.2)."""

    def __init__(self, channels: int, width: int, scales: Sequence[int], aligned: bool = False) -> None:
        super().__init__()
        self.aligned = aligned
        self.parts = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), *conv_bn_relu(channels, width, 1)) for scale in scales
        )
        self.join = conv_bn_relu(channels + len(scales) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, width, h, w)."""
        parts = [resized(part(x), x.shape[-2:], self.aligned) for part in self.parts]
        joined: Tensor = self.join(torch.cat([x, *parts], dim=1))
        return joined


# Variants -------------------------------------------------------------------------------------------------------------

MMSEG = Config("resnet50c", aux_weight=0.4, loss=replace(PixelLoss(), mean_over="all"), resized_twice=True)
"""MMSegmentation's."""


def pspnet_r50_d8(num_classes: int = 19, **config: Any) -> PSPNet:
    """ResNet-50 at stride 8: MMSegmentation's ``pspnet_r50-d8_4xb2-40k_cityscapes-512x1024``."""
    return PSPNet(num_classes, changed(MMSEG, config))


def pspnet_r50_d8_align(num_classes: int = 19, **config: Any) -> PSPNet:
    """The form for images of 8k + 1 px: MMSegmentation's ``pspnet_r50-d8_4xb2-40k_cityscapes-769x769``."""
    return PSPNet(num_classes, changed(replace(MMSEG, align_corners=True), config))


def pspnet_r101_d8(num_classes: int = 19, **config: Any) -> PSPNet:
    """ResNet-101 at stride 8: MMSegmentation's ``pspnet_r101-d8``."""
    return PSPNet(num_classes, changed(replace(MMSEG, backbone="resnet101c"), config))


def pspnet_lite0(num_classes: int = 19, **config: Any) -> PSPNet:
    """EfficientNet-Lite0 at stride 16, narrow: trains on a CPU."""
    light = Config("tf_efficientnet_lite0", 16, aux=False, width=96)
    return PSPNet(num_classes, changed(light, config))
