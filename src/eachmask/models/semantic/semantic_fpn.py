"""Semantic FPN: a class for every pixel from a feature pyramid, by the lightest head that does it.

Kirillov, Girshick, He, Dollar: "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv 1901.02446, section 3.1.

The idea: every level of the pyramid goes through so many 3 x 3 convolutions, each followed by a bilinear doubling, that
it arrives at stride 4; there the levels are added and classified. It costs little beside the pyramid, so that the same
pyramid can serve a detector too, which is Panoptic FPN.

The same numbers as Detectron2's ``semantic_R_50_FPN_1x`` and MMSegmentation's ``fpn_r50`` (see ``tests/parity``).

Shapes: B images of H x W px, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.swin import Swin
from eachmask.models.config import changed
from eachmask.models.semantic.labeling import Labeling, PixelLoss, Raw, resized
from eachmask.structures import ImageBatch
from eachmask.structures.spatial import Spatial

Norm = Literal["group", "batch"]


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    width: int = 128
    norm: Norm = "group"
    dropout: float = 0.0
    loss: PixelLoss = field(default_factory=PixelLoss)
    resized_twice: bool = False
    """Scores go from the network's size to that of the image by way of the size that the network saw, as MMSegmentation
    and Detectron2 have it; else directly."""


class SemanticHead(nn.Module):
    """Levels of a pyramid at strides 4, 8, 16, 32 -> logits at stride 4.

    Args:
        channels: of the levels.
        width: of the convolutions.
        norm: groups of 32 (Detectron2) or the batch (MMSegmentation).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        width: int,
        norm: Norm = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.ModuleList(conv(channels if i == 0 else width, width, norm) for i in range(max(level, 1)))
            for level in range(4)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, K, H / 4, W / 4)."""
        scaled = [self.scaled(number, x) for number, x in enumerate(levels[:4])]
        total = scaled[0]
        for x in scaled[1:]:
            total = total + resized(x, total.shape[2:])
        logits: Tensor = self.classes(self.dropout(total))
        return logits

    def scaled(self, level: int, x: Tensor) -> Tensor:
        """One level through its convolutions, doubled after each but at the finest."""
        for layer in self.scales[level]:  # type: ignore[attr-defined]
            x = layer(x)
            if level:
                x = resized(x, [2 * side for side in x.shape[2:]])
        return x


def conv(channels: int, width: int, norm: Norm) -> nn.Sequential:
    """3 x 3, normalized."""
    layer = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.GroupNorm(32, width) if norm == "group" else nn.BatchNorm2d(width), nn.ReLU())


class SemanticFPN(Labeling):
    """A pyramid with the head."""

    def __init__(self, backbone: FPN, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config, self.loss = num_classes, config, config.loss
        self.resized_twice = config.resized_twice
        self.backbone = backbone
        self.head = SemanticHead(backbone.channels[0], num_classes, config.width, config.norm, config.dropout)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K, H / 4, W / 4)."""
        maps = self.backbone(images.tensor).maps
        height, width = images.tensor.shape[-2:]
        return Raw(self.head(maps), None, (height, width), images.sizes, maps[0])


# Variants -------------------------------------------------------------------------------------------------------------

MMSEG = Config(norm="batch", dropout=0.1, loss=replace(PixelLoss(), mean_over="all"), resized_twice=True)
"""MMSegmentation's."""
DETECTRON2 = Config(resized_twice=True)
"""Detectron2's."""
FOUR_LEVELS = Pyramid(extra=None)


def semantic_fpn_r50(num_classes: int = 54, **config: Any) -> SemanticFPN:
    """ResNet-50 that halves maps first: Detectron2's ``semantic_R_50_FPN_1x``; wants BGR."""
    return SemanticFPN(FPN(ResNet("resnet50", stride_first=True)), num_classes, changed(DETECTRON2, config))


def semantic_fpn_r50_mmseg(num_classes: int = 19, **config: Any) -> SemanticFPN:
    """ResNet-50 whose stem is three convolutions: MMSegmentation's ``fpn_r50_4xb2-80k_cityscapes-512x1024``."""
    return SemanticFPN(FPN(ResNet("resnet50", deep_stem=32), FOUR_LEVELS), num_classes, changed(MMSEG, config))


def semantic_fpn_swin_t(num_classes: int = 19, **config: Any) -> SemanticFPN:
    """Swin-T (torchvision's) under the same head; settings of the backbone are those under ``swin``."""
    backbone = FPN(Swin("swin_t", config.pop("swin", {})), FOUR_LEVELS)
    return SemanticFPN(backbone, num_classes, changed(Config(), config))


def semantic_fpn_lite0(num_classes: int = 19, **config: Any) -> SemanticFPN:
    """EfficientNet-Lite0 with a narrow pyramid, for CPUs."""
    backbone = FPN(Timm("tf_efficientnet_lite0"), replace(FOUR_LEVELS, channels=128))
    return SemanticFPN(backbone, num_classes, changed(Config(width=64), config))
