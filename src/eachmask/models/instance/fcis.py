"""FCIS: position-sensitive inside and outside score maps answer class and mask at once.

Li, Qi, Dai, Ji, Wei: "Fully Convolutional Instance-aware Semantic Segmentation", CVPR 2017, arXiv 1611.07709.

The idea: the network makes maps that say of every pixel "inside an object of class c, at its upper left" and so on for
k x k parts, and as many for "outside, but within its box". A region reads each of its k x k parts off the maps for
that part. Where either is high the region fits an object of that class (their maximum, averaged, is its score), and
which of the two is higher says where the object is: class and mask come from the same numbers, with no weights of their
own per region.

Where we differ: proposals come from all levels of a pyramid and score maps stand on one of them (the paper: ResNet's
conv4 and a dilated conv5); parts are read bilinearly without rounding; no online hard-example mining; masks are not
voted upon.

Shapes: B images, R RoIs of all images, K classes, k x k parts, S = k * cell the side of an assembled region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled, box_losses, positives
from eachmask.models.detection.faster_rcnn import (
    LIGHT_BOX_HEAD,
    LIGHT_RPN,
    BoxHeadConfig,
    FasterRCNN,
    RoIConfig,
    light_fpn,
    resnet_fpn,
)
from eachmask.models.detection.rpn import RPNConfig
from eachmask.models.protocol import Detections
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

ROI_CHUNK_SIZE = 64
"""Regions are assembled in groups of so many when predicting."""


class Raw(NamedTuple):
    """Faster R-CNN's first stage, and the position-sensitive maps."""

    features: Features
    objectness: tuple[Tensor, ...]  # per level (B, A, H, W) logits
    deltas: tuple[Tensor, ...]  # per level (B, 4 A, H, W)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)
    scores: Tensor  # (B, k k 2 (K + 1), h, w): part by part, inside then outside, background last
    moves: Tensor  # (B, k k 4, h, w): part by part, deltas of the box
    stride: int  # of these two


@dataclass(frozen=True)
class ScoreMapsConfig:
    """The maps that regions are read from."""

    parts: int = 7
    """k: a region has k x k parts."""
    cell: int = 3
    """Pixels of an assembled region along one side of a part."""
    level: int = 2
    """On which level of the pyramid they stand: 2 has stride 16."""
    width: int = 1024
    """Channels of the convolution before them (section 3.1)."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices for the proposals, and those of the maps."""

    rpn: RPNConfig = RPNConfig(post_nms_top_n=300, post_nms_top_n_training=300)
    roi: RoIConfig = RoIConfig(batch_size=128)
    box_head: BoxHeadConfig = BoxHeadConfig(class_agnostic=True)
    """Of which only the deltas' weights are used."""
    score_maps: ScoreMapsConfig = ScoreMapsConfig()
    nms_threshold: float = 0.3


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class ScoreMaps(nn.Module):
    """The maps that regions are read from (paper, figure 3)."""

    def __init__(self, channels: int, num_classes: int, config: ScoreMapsConfig) -> None:
        super().__init__()
        num_parts = config.parts**2
        self.reduce = nn.Conv2d(channels, config.width, 1)
        self.scores = nn.Conv2d(config.width, num_parts * 2 * (num_classes + 1), 1)
        self.moves = nn.Conv2d(config.width, num_parts * 4, 1)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        for layer in (self.scores, self.moves):
            nn.init.normal_(layer.weight, std=0.01)
        for layer in (self.reduce, self.scores, self.moves):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> (B, k k 2 (K + 1), h, w) and (B, k k 4, h, w)."""
        x = F.relu(self.reduce(level))
        return self.scores(x), self.moves(x)


def assemble(maps: Tensor, boxes: list[Tensor], parts: int, cell: int, stride: int) -> Tensor:
    """Read every part of a region off the maps of that part (section 2.1): (R, D, S, S).

    Args:
        maps: (B, k k D, h, w), part by part from the upper left.
        boxes: (N_b, 4) px of each image.
    """
    height, width = maps.shape[-2:]
    side = parts * cell
    place = (torch.arange(side, device=maps.device, dtype=torch.float32) + 0.5) / side
    regions = []
    for of_image, b in zip(maps.float(), boxes, strict=True):
        of_parts = of_image.unflatten(0, (parts * parts, -1))  # (k k, D, h, w)
        if not len(b):
            regions.append(of_image.new_zeros((0, of_parts.shape[1], side, side)) + of_image.sum() * 0)
            continue
        x1, y1, x2, y2 = b.float().unbind(1)
        x = (x1[:, None] + (x2 - x1)[:, None] * place) * (2 / (stride * width)) - 1
        y = (y1[:, None] + (y2 - y1)[:, None] * place) * (2 / (stride * height)) - 1
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)  # (N, S, S, 2)
        grid = grid.unflatten(2, (parts, cell)).unflatten(1, (parts, cell))  # (N, k, cell, k, cell, 2)
        grid = grid.permute(1, 3, 0, 2, 4, 5).reshape(parts * parts, len(b) * cell, cell, 2)
        read = F.grid_sample(of_parts, grid, padding_mode="border", align_corners=False)  # (k k, D, N cell, cell)
        read = read.unflatten(2, (len(b), cell)).unflatten(0, (parts, parts))  # (k, k, D, N, cell, cell)
        regions.append(read.permute(3, 2, 0, 4, 1, 5).reshape(len(b), -1, side, side))
    return torch.cat(regions)


def class_logits(scores: Tensor) -> Tensor:
    """(R, 2, K + 1, S, S) inside and outside -> (R, K + 1): the larger of the two, averaged (section 2.2)."""
    return scores.amax(dim=1).mean(dim=(2, 3))


def mask_logits(scores: Tensor, labels: Tensor) -> Tensor:
    """(R, 2, K + 1, S, S) and a class each -> (R, S, S): whose sigmoid is the softmax of inside against outside."""
    chosen = scores[torch.arange(len(labels), device=labels.device), :, labels]
    return chosen[:, 0] - chosen[:, 1]


# The model ------------------------------------------------------------------------------------------------------------


class FCIS(FasterRCNN):
    """Fully convolutional instances; see Faster R-CNN for the first stage."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())

    def build_box_head(self, channels: int) -> None:
        """Regions have no weights of their own: all are in the maps."""
        self.score_maps = ScoreMaps(channels, self.num_classes, self.config.score_maps)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:  # type: ignore[override]
        """(B, 3, H, W) -> the first stage's answer, and the maps."""
        first = super().forward(images)
        level = self.config.score_maps.level
        scores, moves = self.score_maps(first.features.maps[level])
        return Raw(*first, scores, moves, first.features.strides[level])

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:  # type: ignore[override]
        """Log loss of the class, smooth L1 of the box, and log loss of the true class's mask on positive regions."""
        labels = torch.cat([s.labels for s in sampled])
        scores, deltas = self.read(raw, [s.boxes for s in sampled])
        beta = self.config.conventions.smooth_l1_beta
        losses = box_losses(class_logits(scores), deltas, labels, self.gt_deltas(sampled), beta)
        rows = torch.nonzero(labels < self.num_classes).squeeze(1)
        if not len(rows):
            return losses | {"mask": scores.sum() * 0}
        columns = zip(targets, positives(sampled, self.num_classes), strict=True)
        gt_masks = [mask_targets(target.gt_masks, s.matched, s.boxes, scores.shape[-1]) for target, s in columns]
        logits = mask_logits(scores[rows], labels[rows])
        return losses | {"mask": F.binary_cross_entropy_with_logits(logits, torch.cat(gt_masks))}

    def second_stage(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:  # type: ignore[override]
        """What the maps make of proposals (P, 4): boxes (P, 1, 4) within the image, scores (P, K)."""
        logits, deltas = [], []
        for group in in_groups(boxes, ROI_CHUNK_SIZE):
            scores, moves = self.read(raw, group)
            logits.append(class_logits(scores))
            deltas.append(moves)
        return self.refined_all(raw, boxes, torch.cat(logits), torch.cat(deltas))  # type: ignore[arg-type]

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:  # type: ignore[override]
        """Adds each kept box's mask, read off the maps once more: the box has moved."""
        if not options.with_masks:
            return found
        groups = zip(
            in_groups(list(found.boxes), ROI_CHUNK_SIZE), torch.cat(found.labels).split(ROI_CHUNK_SIZE), strict=True
        )
        inside = torch.cat([mask_logits(self.read(raw, group)[0], labels) for group, labels in groups]).sigmoid()
        return found._replace(masks=found.per_image(inside))

    def read(self, raw: Raw, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Regions of all images -> (R, 2, K + 1, S, S) inside and outside, and (R, 1, 4) deltas of the box."""
        parts, cell = self.config.score_maps.parts, self.config.score_maps.cell
        scores = assemble(raw.scores, boxes, parts, cell, raw.stride).unflatten(1, (2, -1))
        return scores, assemble(raw.moves, boxes, parts, 1, raw.stride).mean(dim=(2, 3))[:, None]


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(
    rpn=replace(LIGHT_RPN, post_nms_top_n_training=300),
    box_head=replace(LIGHT_BOX_HEAD, class_agnostic=True),
    score_maps=ScoreMapsConfig(parts=3, cell=7, level=0, width=128),
    nms_threshold=0.5,
)


def fcis_r50_fpn(num_classes: int = 80, **config: Any) -> FCIS:
    """ResNet-50, 7 x 7 parts, score maps of stride 16."""
    chosen = changed(Config(), config)
    return FCIS(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def fcis_lite0(num_classes: int = 80, **config: Any) -> FCIS:
    """EfficientNet-Lite0, 3 x 3 parts, score maps of stride 4, for CPUs."""
    return FCIS(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
