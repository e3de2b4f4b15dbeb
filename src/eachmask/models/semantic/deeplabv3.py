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
from torch.nn import functional as F

from eachmask.backbones.by_name import Stride, backbone_named
from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw, resized
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
    aux_width: int = 0
    """Channels of that head; 0 is a quarter of its map's."""
    loss: PixelLoss = PixelLoss()
    resized_twice: bool = False
    """Scores go from the network's size to that of the image by way of the size that the network saw, as MMSegmentation
    and Detectron2 have it; else directly."""


@dataclass(frozen=True)
class Config(DilatedConfig):
    """What a variant may change."""

    rates: tuple[int, ...] = (12, 24, 36)
    """Gaps of the dilated convolutions, cells."""
    width: int = 256
    dropout: float = 0.5


class Dilated(Labeling):
    """A backbone, dilated as a rule, a classifier on its last map, and one on an earlier map for training alone."""

    config: DilatedConfig

    def __init__(self, num_classes: int, config: DilatedConfig) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.loss, self.aux_weight, self.resized_twice = config.loss, config.aux_weight, config.resized_twice
        self.backbone: Any = self.build_backbone()
        self.classifier = self.head(self.backbone.channels[-1])
        self.aux_tap = aux_tap(config.backbone)
        aux_channels = self.backbone.channels[self.aux_tap]
        self.aux_classifier = fcn_head(aux_channels, num_classes, config.aux_width) if config.aux else None

    def build_backbone(self) -> Any:
        """The backbone, a module with ``channels``."""
        return backbone_named(self.config.backbone, self.config.stride)

    def head(self, channels: int) -> nn.Module:
        """The classifier on a last map of so many channels."""
        raise NotImplementedError

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone, fine to coarse -> (B, K, h, w)."""
        result: Tensor = self.classifier(maps[-1])
        return result

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, h, w)."""
        maps = self.backbone(images.tensor).maps
        aux: Tensor | None = None
        if self.aux_classifier is not None and torch.is_grad_enabled():  # somebody learns
            aux = self.aux_classifier(maps[self.aux_tap])
        height, width = images.tensor.shape[-2:]
        return Raw(self.logits(maps), aux, (height, width), images.sizes)


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
    """Atrous spatial pyramid pooling (section 3.3).

    Args:
        channels: C.
        rates: gaps of the dilated convolutions, cells.
        separable: these are depthwise with a pointwise one behind each.
        kernel: of the convolution that joins the branches.
        mean_norm: the mean is normalized before its rectifier; else it has a bias (Detectron2).
        mean_window: the mean is taken over windows of so many (rows, columns) of cells instead of the image; () is all.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        rates: Sequence[int],
        dropout: float,
        *,
        separable: bool = False,
        kernel: int = 1,
        mean_norm: bool = True,
        mean_window: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        branch = separable_bn_relu if separable else conv_bn_relu
        mean: nn.Module = WindowMean(mean_window) if mean_window else nn.AdaptiveAvgPool2d(1)
        after = conv_bn_relu(channels, width, 1) if mean_norm else [nn.Conv2d(channels, width, 1), nn.ReLU()]
        self.convs = nn.ModuleList(
            [
                conv_bn_relu(channels, width, 1),
                *(branch(channels, width, 3, rate) for rate in rates),
                nn.Sequential(mean, *after),
            ]
        )
        self.project = nn.Sequential(*conv_bn_relu(len(self.convs) * width, width, kernel), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, width, h, w)."""
        *local, image = (conv(x) for conv in self.convs)
        size = x.shape[-2:]
        image = image.expand(-1, -1, *size) if image.shape[-2:] == (1, 1) else resized(image, size)
        joined: Tensor = self.project(torch.cat([*local, image], dim=1))
        return joined


class WindowMean(nn.Module):
    """Means of a map over all windows of one size, or over as much of it as there is.

    Args:
        window: (rows, columns) of cells.
    """

    def __init__(self, window: Sequence[int]) -> None:
        super().__init__()
        self.window = tuple(window)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h - rows + 1, w - columns + 1)."""
        rows, columns = (min(pair) for pair in zip(self.window, x.shape[-2:], strict=True))
        return F.avg_pool2d(x, (rows, columns), 1)


def conv_bn_relu(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the map's size, normalization and a rectifier."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def separable_bn_relu(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A depthwise convolution that keeps the map's size and a pointwise one, both normalized and rectified."""
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU(), *conv_bn_relu(channels, width, 1))


def fcn_head(channels: int, num_classes: int, width: int = 0) -> nn.Sequential:
    """torchvision's FCN head: a 3 x 3 convolution to a quarter of the channels (or ``width``), and the classifier."""
    width = width or channels // 4
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
