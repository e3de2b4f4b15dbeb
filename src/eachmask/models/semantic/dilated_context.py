"""The context module: layers whose reach doubles while their map keeps its size.

Yu, Koltun: "Multi-Scale Context Aggregation by Dilated Convolutions", arXiv 1511.07122.

The idea: a 3 x 3 convolution with gaps of r cells reaches 2 r further and costs the same. Layers with r = 1, 1, 2, 4,
8, 16, 1 on top of each other see 67 x 67 cells, without pooling and with weights that grow only linearly. The module
takes maps of K classes and gives maps of K classes; it starts as the identity, so it can be put behind any network.

Where we differ from the paper: the front end is any dilated backbone with one classifier, trained together with the
module; maps are padded by zeros.

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eachmask.backbones.by_name import Stride, backbone_named
from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    backbone: str = "tf_efficientnet_lite0"
    stride: Stride = 8
    dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 16, 1)
    """Of the 3 x 3 layers; a 1 x 1 one follows. () is the front end alone."""
    multiples: tuple[int, ...] = ()
    """Channels of each layer in multiples of K; () is K for all, the paper's basic form; its large one has
    2, 2, 4, 8, 16, 32, 32."""
    loss: PixelLoss = PixelLoss()


class DilatedContext(Labeling):
    """A front end, and the module behind it."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        self.backbone: Any = backbone_named(config.backbone, config.stride)
        self.front = nn.Conv2d(self.backbone.channels[-1], num_classes, 1)
        self.context = ContextModule(num_classes, config.dilations, config.multiples)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H / stride, W / stride)."""
        logits = self.context(self.front(self.backbone(images.tensor).maps[-1]))
        height, width = images.tensor.shape[-2:]
        return Raw(logits, None, (height, width), images.sizes)


class ContextModule(nn.Module):
    """Table 1 of the paper."""

    def __init__(self, classes: int, dilations: Sequence[int], multiples: Sequence[int] = ()) -> None:
        super().__init__()
        widths = [classes * m for m in (multiples or [1] * len(dilations))]
        pairs = zip([classes, *widths], widths, dilations, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=d, dilation=d) for a, b, d in pairs)
        self.last = nn.Conv2d([classes, *widths][-1], classes, 1)
        for layer in (*self.layers, self.last):
            identity_(layer, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, h, w) -> the same shape."""
        low = x.amin(dim=(1, 2, 3), keepdim=True).detach() if len(self.layers) else 0.0
        y = x - low  # rectifiers then start as the identity too; a constant moves no class past another
        for layer in self.layers:
            y = torch.relu(layer(y))
        result: Tensor = self.last(y) + low
        return result


def identity_(layer: nn.Conv2d, classes: int) -> None:
    """Start as the identity (eq. 4 and 5): each class's channels pass it on, the small rest is noise."""
    out, before = layer.out_channels // classes, layer.in_channels // classes
    with torch.no_grad():
        layer.weight.normal_(std=1e-4)
        middle = layer.kernel_size[0] // 2
        for k in range(classes):
            layer.weight[k * out : (k + 1) * out, k * before : (k + 1) * before, middle, middle] = 1 / before
        assert layer.bias is not None
        layer.bias.zero_()


# Variants -------------------------------------------------------------------------------------------------------------


def dilated_context_lite0(num_classes: int = 21, **config: Any) -> DilatedContext:
    """EfficientNet-Lite0 at stride 8 below the basic module."""
    return DilatedContext(num_classes, changed(Config(), config))


def dilated_context_resnet50(num_classes: int = 21, **config: Any) -> DilatedContext:
    """ResNet-50 at stride 8 below the large module."""
    large = Config("resnet50", multiples=(2, 2, 4, 8, 16, 32, 32))
    return DilatedContext(num_classes, changed(large, config))
