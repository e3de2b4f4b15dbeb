"""Lite R-ASPP: a gate of the whole image on the last map, and one skip; the lightest head there is.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam: "Searching for MobileNetV3", arXiv
1905.02244, section 6.4.

The idea: the last map, made narrow, is multiplied by what the image as a whole says of each channel, classified,
enlarged, and added to what a finer map says. Two classifiers of one convolution each are all that knows of classes.

Where we differ from the paper: as torchvision does, whose weights fit: the gate pools the whole image, both classifiers
have a bias, and the gated features, not their classes, are enlarged.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from eachmask.backbones.by_name import Stride, backbone_named
from eachmask.models.config import changed
from eachmask.models.semantic.deeplabv3 import conv_bn_relu
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw, resized
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "mobilenet_v3_large"
    stride: Stride = 16
    """Of the last map."""
    width: int = 128
    """Channels of the gated map."""
    loss: PixelLoss = PixelLoss()


class LRASPP(Labeling):
    """A dilated backbone, a gate and two classifiers."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        self.backbone: Any = backbone_named(config.backbone, config.stride)
        self.low_tap = self.backbone.strides.index(8)
        low, high = self.backbone.channels[self.low_tap], self.backbone.channels[-1]
        self.narrow = conv_bn_relu(high, config.width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, config.width, 1, bias=False), nn.Sigmoid())
        self.low_classifier = nn.Conv2d(low, num_classes, 1)
        self.high_classifier = nn.Conv2d(config.width, num_classes, 1)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H / 8, W / 8)."""
        maps = self.backbone(images.tensor).maps
        low, high = maps[self.low_tap], maps[-1]
        gated = resized(self.narrow(high) * self.gate(high), low.shape[-2:])
        height, width = images.tensor.shape[-2:]
        return Raw(self.low_classifier(low) + self.high_classifier(gated), None, (height, width), images.sizes)


# Variants -------------------------------------------------------------------------------------------------------------


def lraspp_mobilenet_v3_large(num_classes: int = 21, **config: Any) -> LRASPP:
    """torchvision's, MobileNetV3 at stride 16."""
    return LRASPP(num_classes, changed(Config(), config))


def lraspp_lite0(num_classes: int = 21, **config: Any) -> LRASPP:
    """EfficientNet-Lite0 at stride 32: the fastest of ours."""
    return LRASPP(num_classes, changed(Config("tf_efficientnet_lite0", 32, 96), config))
