"""DeepLabv3: context at several distances at once, by dilated convolutions side by side.

Chen, Papandreou, Schroff, Adam: "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587.

The idea: a classification network halves its map until places are lost. Here its last stages keep the map and dilate
their convolutions instead, which see as far. Above it lies the pyramid of dilated convolutions (ASPP): a 1 x 1
convolution, 3 x 3 ones with gaps of 12, 24 and 36 cells, and the mean of the whole image, joined and classified.

Where we differ from the paper: as torchvision does, whose weights fit: an auxiliary head in training (Zhao et al.,
PSPNet, arXiv 1612.01105), rates that stay 12, 24, 36 at stride 16, and no multi-grid.

Shapes: B images of H x W px, K classes, C channels of the last map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.backbones.bodies import Stride, body
from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class DilatedConfig:
    """What variants of networks on a dilated backbone may change."""

    backbone: str = "resnet50"
    stride: Stride = 8
    """Of the last map."""
    aux: bool = True
    """A second head on the map before, which only helps in training."""
    aux_weight: float = 0.5
    loss: PixelLoss = PixelLoss()


@dataclass(frozen=True)
class Config(DilatedConfig):
    """What a variant may change."""

    rates: tuple[int, ...] = (12, 24, 36)
    """Gaps of the dilated convolutions, cells."""
    width: int = 256
    dropout: float = 0.5


class Dilated(Labeling):
    """A dilated backbone, a classifier on its last map, and one on an earlier map that only helps in training."""

    def __init__(self, num_classes: int, config: DilatedConfig) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.loss, self.aux_weight = config.loss, config.aux_weight
        self.backbone: Any = body(config.backbone, config.stride)
        self.classifier = self.head(self.backbone.channels[-1])
        self.aux_tap = aux_tap(config.backbone)
        self.aux_classifier = fcn_head(self.backbone.channels[self.aux_tap], num_classes) if config.aux else None

    def head(self, channels: int) -> nn.Module:
        """The classifier on a map of so many channels."""
        raise NotImplementedError

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, h, w)."""
        maps = self.backbone(images.tensor).maps
        aux: Tensor | None = None
        if self.aux_classifier is not None and torch.is_grad_enabled():  # somebody learns
            aux = self.aux_classifier(maps[self.aux_tap])
        height, width = images.tensor.shape[-2:]
        return Raw(self.classifier(maps[-1]), aux, (height, width), images.sizes)


class DeepLabV3(Dilated):
    """ASPP and a classifier."""

    config: Config

    def head(self, channels: int) -> nn.Module:
        """ASPP, one convolution, and the classes."""
        c = self.config
        return nn.Sequential(
            ASPP(channels, c.width, c.rates, c.dropout),
            *conv_bn_relu(c.width, c.width, 3),
            nn.Conv2d(c.width, self.num_classes, 1),
        )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3)."""

    def __init__(self, channels: int, width: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        branches = [conv_bn_relu(channels, width, 1)]
        branches += [conv_bn_relu(channels, width, 3, rate) for rate in rates]
        self.convs = nn.ModuleList(
            [*branches, nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(channels, width, 1))]
        )
        self.project = nn.Sequential(*conv_bn_relu(len(self.convs) * width, width, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, width, h, w)."""
        *local, image = (conv(x) for conv in self.convs)
        joined: Tensor = self.project(torch.cat([*local, image.expand(-1, -1, *x.shape[-2:])], dim=1))
        return joined


def conv_bn_relu(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the map's size, normalization and a rectifier."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def fcn_head(channels: int, num_classes: int) -> nn.Sequential:
    """torchvision's FCN head: a 3 x 3 convolution to a quarter of the channels, and the classifier."""
    width = channels // 4
    return nn.Sequential(*conv_bn_relu(channels, width, 3), nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1))


def aux_tap(backbone: str) -> int:
    """Which map the auxiliary head looks at: the one before the last stage, as torchvision has it."""
    return 1 if backbone.startswith("mobilenet_v3_") else -2


# Variants -------------------------------------------------------------------------------------------------------------


def deeplabv3_resnet50(num_classes: int = 21, **config: Any) -> DeepLabV3:
    """torchvision's, ResNet-50 at stride 8."""
    return DeepLabV3(num_classes, changed(Config(), config))


def deeplabv3_resnet101(num_classes: int = 21, **config: Any) -> DeepLabV3:
    """torchvision's, ResNet-101 at stride 8."""
    return DeepLabV3(num_classes, changed(Config("resnet101"), config))


def deeplabv3_mobilenet_v3_large(num_classes: int = 21, **config: Any) -> DeepLabV3:
    """torchvision's, MobileNetV3 at stride 16."""
    return DeepLabV3(num_classes, changed(Config("mobilenet_v3_large", 16), config))


def deeplabv3_lite0(num_classes: int = 21, **config: Any) -> DeepLabV3:
    """EfficientNet-Lite0 at stride 16, narrow: trains on a CPU."""
    light = Config("tf_efficientnet_lite0", 16, aux=False, rates=(4, 8, 12), width=96, dropout=0.1)
    return DeepLabV3(num_classes, changed(light, config))
