"""Fully convolutional networks: a classifier that slides over the image for free, and skips that sharpen its map.

Long, Shelhamer, Darrell: "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038 (1605.06211).

The idea: a fully connected layer is a convolution as large as its input, so a classification network (VGG-16) runs on
an image of any size and says a coarse map of classes. FCN-32s enlarges it 32 times. FCN-16s enlarges it twice by a
transposed convolution that starts as bilinear interpolation, adds what the fourth pooling says, and enlarges that 16
times; FCN-8s adds the third pooling. Skips that start at zero change nothing until they have learnt to.

Where we differ from the paper: convolutions pad by half their kernel instead of padding the image by 100 px and cutting
the result; any backbone can take VGG's place; the last enlargement, which is fixed in the paper too, is left to
``select`` (its labels are the same: at the border it scales all classes alike).

:class:`DilatedFCN` is torchvision's network of that name: a dilated ResNet below a head of two convolutions.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from eachmask.backbones.by_name import backbone_named
from eachmask.models.config import changed
from eachmask.models.semantic.deeplabv3 import Dilated, DilatedConfig, fcn_head
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw
from eachmask.ops.upsampling import bilinear_kernel
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "vgg16"
    finest: Literal[8, 16, 32] = 8
    """Stride of the last skip: FCN-8s, FCN-16s, or FCN-32s without one."""
    kernel: int = 7
    """Of the first convolution that was fully connected."""
    width: int = 4096
    """Channels of what was fully connected."""
    dropout: float = 0.5
    loss: PixelLoss = PixelLoss()


class FCN(Labeling):
    """A backbone, the classifier as convolutions, and skips."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        self.backbone: Any = backbone_named(config.backbone)
        width, kernel = config.width, config.kernel
        self.classifier = nn.Sequential(
            *(nn.Conv2d(self.backbone.channels[-1], width, kernel, padding=kernel // 2), nn.ReLU(inplace=True)),
            nn.Dropout2d(config.dropout),
            *(nn.Conv2d(width, width, 1), nn.ReLU(inplace=True), nn.Dropout2d(config.dropout)),
            nn.Conv2d(width, num_classes, 1),
        )
        taps = [self.backbone.strides.index(stride) for stride in (16, 8) if stride >= config.finest]
        self.taps = tuple(taps)
        self.skips = nn.ModuleList(nn.Conv2d(self.backbone.channels[tap], num_classes, 1) for tap in taps)
        self.enlarge = nn.ModuleList(enlarging(num_classes, 2) for _ in taps)
        for skip in self.skips:
            for parameter in skip.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H / finest, W / finest)."""
        maps = self.backbone(images.tensor).maps
        scores = self.classifier(maps[-1])
        for tap, skip, enlarge in zip(self.taps, self.skips, self.enlarge, strict=True):
            height, width = maps[tap].shape[-2:]
            scores = enlarge(scores)[..., :height, :width] + skip(maps[tap])
        height, width = images.tensor.shape[-2:]
        return Raw(scores, None, (height, width), images.sizes)


def enlarging(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution that starts as bilinear interpolation."""
    padding = factor // 2
    layer = nn.ConvTranspose2d(channels, channels, 2 * factor - factor % 2, factor, padding, bias=False)
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel(channels, factor))
    return layer


# torchvision's --------------------------------------------------------------------------------------------------------


class DilatedFCN(Dilated):
    """A head of two convolutions."""

    def head(self, channels: int) -> nn.Module:
        """One convolution, and the classes."""
        return fcn_head(channels, self.num_classes)


# Variants -------------------------------------------------------------------------------------------------------------

LIGHT = Config("tf_efficientnet_lite0", kernel=3, width=256, dropout=0.1)


def fcn32s_vgg16(num_classes: int = 21, **config: Any) -> FCN:
    """The paper's coarse net."""
    return FCN(num_classes, changed(Config(finest=32), config))


def fcn16s_vgg16(num_classes: int = 21, **config: Any) -> FCN:
    """With one skip."""
    return FCN(num_classes, changed(Config(finest=16), config))


def fcn8s_vgg16(num_classes: int = 21, **config: Any) -> FCN:
    """With two skips."""
    return FCN(num_classes, changed(Config(), config))


def fcn32s_lite0(num_classes: int = 21, **config: Any) -> FCN:
    """EfficientNet-Lite0 without skips."""
    return FCN(num_classes, changed(replace(LIGHT, finest=32), config))


def fcn16s_lite0(num_classes: int = 21, **config: Any) -> FCN:
    """EfficientNet-Lite0 with one skip."""
    return FCN(num_classes, changed(replace(LIGHT, finest=16), config))


def fcn8s_lite0(num_classes: int = 21, **config: Any) -> FCN:
    """EfficientNet-Lite0 with two skips: trains on a CPU."""
    return FCN(num_classes, changed(LIGHT, config))


def fcn_resnet50(num_classes: int = 21, **config: Any) -> DilatedFCN:
    """torchvision's, ResNet-50 at stride 8."""
    return DilatedFCN(num_classes, changed(DilatedConfig(), config))


def fcn_resnet101(num_classes: int = 21, **config: Any) -> DilatedFCN:
    """torchvision's, ResNet-101 at stride 8."""
    return DilatedFCN(num_classes, changed(DilatedConfig("resnet101"), config))
