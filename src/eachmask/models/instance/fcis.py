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

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled, box_losses
from eachmask.models.detection.faster_rcnn import FasterRCNN, light_fpn, resnet_fpn
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, ImageBatch, Instances, RoIMasks
from eachmask.structures import boxes as box_ops

ROIS_AT_ONCE = 64
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
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices for the proposals, and those of the maps."""

    parts: int = 7
    """k: a region has k x k parts."""
    cell: int = 3
    """Pixels of an assembled region along one side of a part."""
    score_level: int = 2
    """On which level of the pyramid the score maps stand: 2 has stride 16."""
    score_width: int = 1024
    """Channels of the convolution before them (section 3.1)."""
    box_agnostic: bool = True
    proposals: int = 300
    proposals_training: int = 300
    roi_batch: int = 128
    nms_threshold: float = 0.3


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class ScoreMaps(nn.Module):
    """The maps that regions are read from (paper, figure 3)."""

    def __init__(self, channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        num_parts = config.parts**2
        self.reduce = nn.Conv2d(channels, config.score_width, 1)
        self.scores = nn.Conv2d(config.score_width, num_parts * 2 * (num_classes + 1), 1)
        self.moves = nn.Conv2d(config.score_width, num_parts * 4, 1)
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
    """Fully convolutional instances; see Faster R-CNN for the three verbs and the first stage."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        del self.box_head, self.box_predictor  # regions have no weights of their own
        self.score_maps = ScoreMaps(backbone.channels[0], num_classes, config)

    def forward(self, images: ImageBatch) -> Raw:  # type: ignore[override]
        """(B, 3, H, W) -> the first stage's answer, and the maps."""
        first = super().forward(images)
        level = self.config.score_level
        return Raw(*first, *self.score_maps(first.features.maps[level]), first.features.strides[level])

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:  # type: ignore[override]
        """Log loss of the class, smooth L1 of the box, and log loss of the true class's mask on positive regions."""
        boxes = [s.boxes for s in sampled]
        labels = torch.cat([s.labels for s in sampled])
        scores, deltas = self.read(raw, boxes)
        wanted = torch.cat([self._box_targets(s) for s in sampled])
        losses = box_losses(class_logits(scores), deltas, labels, wanted, self.config.smooth_l1_beta)
        rows = torch.nonzero(labels < self.num_classes).squeeze(1)
        if not len(rows):
            return losses | {"mask": scores.sum() * 0}
        drawn = []
        for s, target in zip(sampled, targets, strict=True):
            own = torch.nonzero(s.labels < self.num_classes).squeeze(1)
            drawn.append(mask_targets(target.gt_masks, s.matched[own], s.boxes[own], scores.shape[-1]))
        logits = mask_logits(scores[rows], labels[rows])
        return losses | {"mask": F.binary_cross_entropy_with_logits(logits, torch.cat(drawn))}

    def judge(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:  # type: ignore[override]
        """What the maps make of proposals (P, 4): boxes (P, 1, 4) within the image, scores (P, K)."""
        logits, deltas = [], []
        for group in in_groups(boxes, ROIS_AT_ONCE):
            scores, moves = self.read(raw, group)
            logits.append(class_logits(scores))
            deltas.append(moves)
        counts = [len(b) for b in boxes]
        columns = zip(boxes, torch.cat(logits).split(counts), torch.cat(deltas).split(counts), raw.sizes, strict=True)
        results = []
        for image_boxes, image_logits, image_shifts, size in columns:
            mended = self.shifted(image_boxes[:, None], image_shifts, self.config.box_weights)
            results.append((box_ops.clip(mended, size), image_logits.softmax(dim=1)[:, :-1]))
        return results

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:  # type: ignore[override]
        """Adds each kept box's mask, read off the maps once more: the box has moved."""
        if not options.with_masks:
            return instances
        labels = torch.cat([i.labels for i in instances if i.labels is not None])
        groups = zip(in_groups([i.boxes for i in instances], ROIS_AT_ONCE), labels.split(ROIS_AT_ONCE), strict=True)
        inside = torch.cat([mask_logits(self.read(raw, group)[0], k) for group, k in groups]).sigmoid()
        return [
            replace(i, masks=RoIMasks(p, i.boxes, i.image_size, options.mask_threshold, options.paste))
            for i, p in zip(instances, inside.split([len(i) for i in instances]), strict=True)
        ]

    def read(self, raw: Raw, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Regions of all images -> (R, 2, K + 1, S, S) inside and outside, and (R, 1, 4) deltas of the box."""
        parts, cell = self.config.parts, self.config.cell
        scores = assemble(raw.scores, boxes, parts, cell, raw.stride).unflatten(1, (2, -1))
        return scores, assemble(raw.moves, boxes, parts, 1, raw.stride).mean(dim=(2, 3))[:, None]


# Variants -------------------------------------------------------------------------------------------------------------


def fcis_r50_fpn(num_classes: int = 80, **config: Any) -> FCIS:
    """ResNet-50, 7 x 7 parts, score maps of stride 16."""
    chosen = Config(**config)
    return FCIS(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def fcis_lite0(num_classes: int = 80, **config: Any) -> FCIS:
    """EfficientNet-Lite0, 3 x 3 parts, score maps of stride 4, for processors without a GPU."""
    light = {"parts": 3, "cell": 7, "score_level": 0, "score_width": 128, "nms_threshold": 0.5}
    chosen = Config(**(faster_rcnn.LIGHT | light | config))
    return FCIS(light_fpn("tf_efficientnet_lite0"), num_classes, chosen)
