"""PointRend for label maps: a coarse map doubled twice, and asked anew where two classes are nearly as good.

Kirillov, Wu, He, Girshick: "PointRend: Image Segmentation as Rendering", CVPR 2020, arXiv 1912.08193, section 4.2.

The idea: Semantic FPN says classes at a quarter of the image's side. A perceptron that reads the fine features and the
coarse classes at a point says them anywhere between. The map is doubled, the cells in which the best class leads least
are asked anew, and that once more, so that outlines are those of the image's pixels at little cost.

The same numbers as Detectron2's ``pointrend_semantic_R_101_FPN`` and MMSegmentation's ``pointrend_r50`` (see
``tests/parity``).

Shapes: B images of H x W px, K classes, C channels of the pyramid, P points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.models.config import changed
from eachmask.models.instance.pointrend import PointHead, PointHeadConfig
from eachmask.models.semantic import semantic_fpn
from eachmask.models.semantic.labeling import Raw, batch_labels, resized
from eachmask.models.semantic.semantic_fpn import FOUR_LEVELS, SemanticFPN
from eachmask.ops import pixel_losses
from eachmask.ops.points import margin, most_uncertain_cells, point_sample, sample_uncertain_points
from eachmask.structures import SemanticMap


@dataclass(frozen=True)
class PointsConfig:
    """The points of the loss, and those of rendering."""

    per_image: int = 2048
    """Points per image in the loss ..."""
    oversample: float = 3.0
    """... sampled from so many times as many ..."""
    importance: float = 0.75
    """... of which this share are the most uncertain ones."""
    doublings: int = 2
    """From stride 4 on."""
    per_doubling: int = 8096
    """Cells that are asked anew after each."""


@dataclass(frozen=True)
class Config(semantic_fpn.Config):
    """What a variant may change."""

    point_head: PointHeadConfig = PointHeadConfig(coarse_in_each=False)
    points: PointsConfig = PointsConfig()


class PointRendSemantic(SemanticFPN):
    """Semantic FPN whose map is rendered."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config) -> None:
        super().__init__(backbone, num_classes, config)
        self.point_head = PointHead(backbone.channels[0], num_classes, config.point_head)

    def losses(self, raw: Raw, targets: list[SemanticMap]) -> dict[str, Tensor]:
        """The coarse map's, and the cross-entropy of points, whose labels are those of the pixels they lie on."""
        with torch.no_grad():
            c = self.config.points
            points = sample_uncertain_points(raw.logits.float(), c.per_image, c.oversample, c.importance, margin)
        labels = labels_at(batch_labels(targets, raw.padded).to(points.device), points)[..., None]
        logits = self.at(raw, points).float()[..., None]
        loss = self.mean_cross_entropy(logits, labels)
        return super().losses(raw, targets) | {"points": loss}

    def mean_cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Over the points that count, or all of them, see :class:`~eachmask.models.semantic.labeling.PixelLoss`."""
        known = pixel_losses.cross_entropy(logits, labels)
        share = (labels != pixel_losses.IGNORED).float().mean()
        return known * share if self.loss.mean_over == "all" else known

    def at(self, raw: Raw, points: Tensor) -> Tensor:
        """(B, P, 2) as (x, y) in 0..1 of the batch -> (B, K, P) logits."""
        assert raw.fine is not None
        return self.point_head.every_class(point_sample(raw.fine, points), point_sample(raw.logits, points))

    def grids(self, raw: Raw) -> Tensor:
        """Adaptive subdivision (section 3.1): (B, K, H, W) where H and W are multiples of 4."""
        logits = raw.logits
        for _ in range(self.config.points.doublings):
            logits = resized(logits, [2 * side for side in logits.shape[-2:]])
            index, points = most_uncertain_cells(margin(logits), self.config.points.per_doubling)
            found = self.at(raw, points.to(logits)).to(logits)
            index = index[:, None].expand_as(found)
            logits = logits.flatten(2).scatter(2, index, found).view_as(logits)
        return logits


def labels_at(labels: Tensor, points: Tensor) -> Tensor:
    """(B, H, W) and points (B, P, 2) as (x, y) in 0..1 -> (B, P), of the pixel that each lies on."""
    _, height, width = labels.shape
    limit = points.new_tensor([width, height])
    x, y = torch.minimum((points * limit).long(), (limit - 1).long()).unbind(-1)
    return labels.flatten(1).gather(1, y * width + x)


# Variants -------------------------------------------------------------------------------------------------------------


def pointrend_semantic_r50(num_classes: int = 19, **config: Any) -> PointRendSemantic:
    """ResNet-50 that halves maps first, wants BGR: Detectron2's ``pointrend_semantic_R_101_FPN`` in its size."""
    return PointRendSemantic(FPN(ResNet("resnet50", stride_first=True)), num_classes, changed(Config(), config))


def pointrend_semantic_r101(num_classes: int = 19, **config: Any) -> PointRendSemantic:
    """ResNet-101, wants BGR: Detectron2's ``pointrend_semantic_R_101_FPN_1x_cityscapes``."""
    return PointRendSemantic(FPN(ResNet("resnet101", stride_first=True)), num_classes, changed(Config(), config))


def pointrend_semantic_r50_mmseg(num_classes: int = 19, **config: Any) -> PointRendSemantic:
    """ResNet-50 whose stem is three convolutions: MMSegmentation's ``pointrend_r50_4xb2-80k_cityscapes-512x1024``."""
    own = Config(
        norm="batch", loss=semantic_fpn.MMSEG.loss, resized_twice=True, point_head=PointHeadConfig(),
        points=PointsConfig(per_doubling=8196),
    )  # fmt: skip
    backbone = FPN(ResNet("resnet50", deep_stem=32), FOUR_LEVELS)
    return PointRendSemantic(backbone, num_classes, changed(own, config))


def pointrend_semantic_lite0(num_classes: int = 19, **config: Any) -> PointRendSemantic:
    """EfficientNet-Lite0 with a narrow pyramid and perceptron: trains on a CPU."""
    light = Config(width=64, point_head=PointHeadConfig(width=64), points=PointsConfig(512, per_doubling=1024))
    backbone = FPN(Timm("tf_efficientnet_lite0"), replace(FOUR_LEVELS, channels=128))
    return PointRendSemantic(backbone, num_classes, changed(light, config))
