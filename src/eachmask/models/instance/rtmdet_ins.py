"""RTMDet-Ins: a real-time detector whose every detection brings the network of its mask.

Lyu, Zhang, Huang, Zhou, Wang, Liu, Zhang, Chen: "RTMDet: An Empirical Study of Designing Real-Time Object Detectors",
2022, arXiv 2212.07784; masks as in CondInst, arXiv 2003.05664.

The idea: large-kernel depth-wise convolutions in backbone and neck alike see far for little time, and heads share
their convolutions between levels but not their batch statistics. Which places learn an object is decided anew in
every step: those whose present prediction costs least, with the IoU they reach as the class score they should give.

The layout and constants of MMDetection's ``rtmdet-ins``, whose box and class branch are one tower. Where we differ:
crowd regions are neither positive nor negative; an object that loses all its places to others still gets one
(:func:`dynamic_top`); at most ``places_per_image`` masks per image are learnt; each mask is cropped to the image before
it is stretched to the original size.

Shapes: B images, K classes, P places of all levels, N objects, 8 mask features at stride 8, 169 kernel weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.backbones.cspnext import CSPNeXt, CSPNeXtPAFPN, Neck
from eachmask.models.config import changed
from eachmask.models.detection.dense import Kept, detections, flat, join_levels
from eachmask.models.instance.rtmdet_heads import Heads, HeadSizes
from eachmask.models.protocol import Detections, Network, pack_image
from eachmask.ops.dynamic import (
    DynamicMasks,
    MaskNetworks,
    Places,
    apply_networks,
    every_fourth,
)
from eachmask.ops.losses import dice, giou, quality_focal
from eachmask.ops.match import learnable
from eachmask.ops.point_boxes import boxes_from
from eachmask.ops.suppression import suppress_boxes
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the heads say of every place, and the features that masks are made of."""

    classes: tuple[Tensor, ...]  # per level (B, K, H, W) logits
    distances: tuple[Tensor, ...]  # per level (B, 4, H, W) px to left, top, right and bottom, not negative
    kernels: tuple[Tensor, ...]  # per level (B, 169, H, W); of an optimized network see FastHeads
    mask_features: Tensor  # (B, 8, H, W) of the finest level
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    batch_size: tuple[int, int]  # padded (height, width)


class Selected(NamedTuple):
    """Detections, and the networks that give their masks."""

    found: Detections
    networks: tuple[MaskNetworks, ...] | None  # of each image; None where no masks are wanted
    batch_size: tuple[int, int]  # (height, width) px that the mask features span


@dataclass(frozen=True)
class AssignConfig:
    """Dynamic soft labels (section 3.2)."""

    topk: int = 13
    """So many best IoUs of an object are added up to the number of its places."""
    iou_weight: float = 3.0
    center_radius: float = 3.0
    """beta of the soft center prior, in strides."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and how many masks are learnt."""

    box_weight: float = 2.0
    mask_weight: float = 2.0
    places_per_image: int = 300
    """Positive places whose masks are learnt; where there are more, a random choice."""


@dataclass(frozen=True)
class Config:
    """What a variant may change. Defaults are the paper's."""

    convs: int = 2
    """Of each tower."""
    mask_convs: int = 4
    prototypes: int = 8
    """Channels of the mask features."""
    assign: AssignConfig = AssignConfig()
    loss: LossConfig = LossConfig()
    candidates: int = 1000
    """Best pairs of place and class of each level that go into suppression."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    max_detections: int = 100


# The model ------------------------------------------------------------------------------------------------------------


class RTMDetIns(Network[Raw, Selected, Instances]):
    """One-stage instance segmentation.

    Args:
        backbone: gives Features of equal channels on every level.
        num_classes: K.
    """

    task = INSTANCES
    needs = frozenset({"masks"})

    def __init__(self, backbone: CSPNeXtPAFPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.num_classes = num_classes
        self.backbone = backbone
        sizes = HeadSizes(num_classes, config.convs, config.mask_convs, config.prototypes)
        self.heads = Heads(backbone.channels[0], len(backbone.channels), sizes)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what the heads say."""
        features = self.backbone(images.tensor)
        said = [self.heads(level, i, features.strides[i]) for i, level in enumerate(features.maps)]
        classes, distances, kernels = zip(*said, strict=True)
        height, width = images.tensor.shape[-2:]
        mask_features = self.heads.mask_features(features.maps)
        return Raw(classes, distances, kernels, mask_features, images.sizes, (height, width))

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Quality focal loss, GIoU and Dice (section 3.3) on the places that the assignment chose.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        points, strides = self.places(raw)
        logits, kernels = flat(raw.classes).float(), flat(raw.kernels)  # (B, P, K), (B, P, 169)
        boxes = boxes_from(points, flat(raw.distances).float())  # (B, P, 4)
        class_loss, box_loss, weight, num_masks = logits.sum() * 0, boxes.sum() * 0, 0.0, 0
        mask_loss = kernels.sum() * 0 + raw.mask_features.sum() * 0  # so that all learn, if only nothing
        for i, target in enumerate(targets):
            with torch.no_grad():
                a = self.assign(points, strides, logits[i], boxes[i], target)
            quality = torch.zeros_like(logits[i])
            quality[a.positive, a.labels] = a.iou
            class_loss = class_loss + quality_focal(logits[i], quality, weight=(~a.ignored)[:, None].float())
            box_loss = box_loss + (giou(boxes[i, a.positive], target.boxes.to(boxes)[a.objects]) * a.iou).sum()
            weight += float(a.iou.sum())
            if len(a.positive):
                chosen = a.only(self.config.loss.places_per_image)
                places = Places(points[chosen.positive], 8 * strides[chosen.positive], self.strides[0], 0.0)
                mask_loss = mask_loss + self._mask_loss(raw, i, kernels[i, chosen.positive], places, chosen, target)
                num_masks += len(chosen.positive)
        weight = max(weight, 1.0)
        return {
            "class": class_loss / weight,
            "box": self.config.loss.box_weight * box_loss / weight,
            "mask": self.config.loss.mask_weight * mask_loss / max(num_masks, 1),
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """Suppression per class of the best places, each with the network that gives its mask."""
        limits = options.limits(self.config)
        points, strides = self.places(raw)
        counts = [level[0, 0].numel() for level in raw.classes]
        of_levels = points.split(counts)
        every, networks = [], []
        for i, size in enumerate(raw.sizes):
            levels = [self._candidates(raw, i, n, p, limits.score_threshold) for n, p in enumerate(of_levels)]
            kept = join_levels(levels, counts).clipped(size)
            index, scores = suppress_boxes(kept.boxes, kept.scores, kept.labels, limits)
            kept = kept.take(index)._replace(scores=scores)
            every.append(kept)
            if options.with_masks:
                kernels = self.heads.kernels_at(raw.kernels, i, kept.places)
                places = Places(points[kept.places], 8 * strides[kept.places], self.strides[0], 0.0)
                networks.append(MaskNetworks(raw.mask_features[i].detach(), kernels.detach(), places))
        found = detections(raw.sizes, every)
        return Selected(found, tuple(networks) if options.with_masks else None, raw.batch_size)

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """Masks stay networks until somebody needs the pixels."""
        results = [pack_image(selected.found, i, options) for i in range(len(selected.found.sizes))]
        for found, one in zip(results, selected.networks or (), strict=False):
            size = found.image_size
            found.masks = DynamicMasks(*one, selected.batch_size, size, size, options.mask_threshold)
        return results

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels."""
        return self.backbone.strides

    @property
    def max_objects(self) -> int:
        """The pairs of place and class that go into suppression."""
        return self.config.candidates * len(self.strides)

    def places(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Points (P, 2) and strides (P,) of all levels, px: a place lies at the upper left corner of its cell."""
        points, strides = [], []
        for level, stride in zip(raw.classes, self.strides, strict=True):
            points.append(_grid(level, stride))
            strides.append(torch.full((len(points[-1]),), float(stride), device=level.device))
        return torch.cat(points), torch.cat(strides)

    def _candidates(self, raw: Raw, image: int, level: int, points: Tensor, threshold: float) -> Kept:
        """The best pairs of place and class of one level of one image, whose places lie at some points (H W, 2)."""
        logits, distances = raw.classes[level][image], raw.distances[level][image]
        # Most places have no class that says enough: all classes are looked at where the best one does.
        some = torch.nonzero(logits.amax(0).flatten().float().sigmoid() > threshold).squeeze(1)
        scores = logits.flatten(1)[:, some].T.float().sigmoid()
        row, label = torch.nonzero(scores > threshold, as_tuple=True)
        best, order = scores[row, label].topk(min(self.config.candidates, len(row)))
        place, label = some[row[order]], label[order]
        return Kept(boxes_from(points[place], distances.flatten(1)[:, place].T.float()), label, best, place)

    def _mask_loss(
        self, raw: Raw, index: int, kernels: Tensor, places: Places, assigned: Assigned, target: Instances
    ) -> Tensor:
        """Sum of the Dice losses at a quarter of the image's size."""
        logits = apply_networks(raw.mask_features[index], kernels, places)[None]
        logits = F.interpolate(logits, scale_factor=self.strides[0] // 4, mode="bilinear", align_corners=False)[0]
        objects, row = assigned.objects.unique(return_inverse=True)
        gt_masks = every_fourth(target.gt_masks[objects], (logits.shape[1], logits.shape[2])).to(logits)
        return dice(logits.sigmoid(), gt_masks[row], eps=5e-6).sum()

    # Target assignment

    def assign(self, points: Tensor, strides: Tensor, logits: Tensor, boxes: Tensor, target: Instances) -> Assigned:
        """Dynamic soft labels (section 3.2): each object takes the places that cost it least.

        cost = CE(score, soft) (soft - score)^2 - 3 log IoU + 10^(distance - 3), soft = the IoU at the object's class,
        distance in strides; among places inside any box. How many: the sum of the object's 13 best IoUs.

        Args:
            points: (P, 2); strides: (P,); logits: (P, K); boxes: (P, 4) as predicted.
        """
        single, crowd = learnable(target, points.device)
        gt_boxes = target.boxes.to(boxes)
        inside = _inside(points, gt_boxes[single]).any(dim=1)
        rows = torch.nonzero(inside).squeeze(1)
        labels = target.labels.to(points.device)
        ignored = _inside(points, gt_boxes[crowd]).any(dim=1)
        if not len(rows):
            nothing = rows.new_zeros(0)
            return Assigned(nothing, nothing, nothing, boxes.new_zeros(0), ignored)
        iou = box_ops.iou(boxes[rows], gt_boxes[single])
        cost = self.cost(logits[rows][:, labels[single]], iou, logits[rows])
        center = (gt_boxes[single, :2] + gt_boxes[single, 2:]) / 2
        distance = (points[rows][:, None] - center).norm(dim=-1) / strides[rows, None]
        chosen = dynamic_top(cost + 10.0 ** (distance - self.config.assign.center_radius), iou, self.config.assign.topk)
        place, column = torch.nonzero(chosen, as_tuple=True)
        ignored[rows[place]] = False
        objects = single[column]
        return Assigned(rows[place], objects, labels[objects], iou[place, column], ignored)

    def cost(self, own: Tensor, iou: Tensor, logits: Tensor) -> Tensor:
        """Class and box terms of the assignment's cost (eq. 1 - 3): (R, N).

        Args:
            own: (R, N) logits of the objects' classes; iou: (R, N); logits: (R, K), for all other classes' share.
        """
        others = quality_focal(logits, torch.zeros_like(logits), reduction="none").sum(dim=1, keepdim=True)
        as_background = quality_focal(own, torch.zeros_like(own), reduction="none")
        classes = others - as_background + quality_focal(own, iou, reduction="none")
        return classes - self.config.assign.iou_weight * torch.log(iou + 1e-7)


# Target assignment ----------------------------------------------------------------------------------------------------


class Assigned(NamedTuple):
    """The places of one image that learn an object."""

    positive: Tensor  # (M,) index of the place
    objects: Tensor  # (M,) index into the targets
    labels: Tensor  # (M,)
    iou: Tensor  # (M,) of the predicted box: the score to learn, and the weight of the box
    ignored: Tensor  # (P,) bool: in a crowd region and not positive

    def only(self, num: int) -> Assigned:
        """At most num of them, a random choice."""
        if len(self.positive) <= num:
            return self
        rows = torch.randperm(len(self.positive), device=self.positive.device)[:num]
        return Assigned(self.positive[rows], self.objects[rows], self.labels[rows], self.iou[rows], self.ignored)


def dynamic_top(cost: Tensor, iou: Tensor, topk: int) -> Tensor:
    """Each object's cheapest places, as many as its topk best IoUs add up to (at least 1); a place takes one object.

    Where an object loses all of them to others, it takes the cheapest that is left: of two objects with much the same
    center one would otherwise never be learnt, since the places that come nearest to it are those that fit the other.

    Args:
        cost, iou: (R, N).

    Returns:
        (R, N) bool.
    """
    counts = iou.topk(min(topk, len(iou)), dim=0).values.sum(0).int().clamp(min=1)
    rank = cost.argsort(dim=0, stable=True).argsort(dim=0, stable=True)
    chosen = rank < counts
    several = chosen.sum(dim=1, keepdim=True) > 1
    cheapest = F.one_hot(cost.argmin(dim=1), cost.shape[1]).bool()
    chosen = torch.where(several, cheapest, chosen)
    for column in torch.nonzero(~chosen.any(dim=0)).flatten().tolist():
        left = torch.nonzero(~chosen.any(dim=1)).flatten()
        if len(left):
            chosen[left[cost[left, column].argmin()], column] = True
    return chosen


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(P, 2), (N, 4) -> (P, N) bool: strictly inside."""
    low = points[:, None] - boxes[None, :, :2]
    high = boxes[None, :, 2:] - points[:, None]
    return (torch.minimum(low, high) > 0).all(dim=-1)


def _grid(level: Tensor, stride: int) -> Tensor:
    """(H W, 2) as (x, y), px."""
    height, width = level.shape[-2:]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([xs, ys], dim=-1).reshape(-1, 2) * float(stride)).to(level.device)


# Variants -------------------------------------------------------------------------------------------------------------


def _build(deepen: float, widen: float, neck: Neck, num_classes: int, config: dict[str, Any]) -> RTMDetIns:
    return RTMDetIns(CSPNeXtPAFPN(CSPNeXt(deepen, widen), neck), num_classes, changed(Config(), config))


def rtmdet_ins_tiny(num_classes: int = 80, **config: Any) -> RTMDetIns:
    """5.6 M parameters: MMDetection's ``rtmdet-ins_tiny``."""
    return _build(0.167, 0.375, Neck(96, 1), num_classes, config)


def rtmdet_ins_s(num_classes: int = 80, **config: Any) -> RTMDetIns:
    """10.2 M parameters."""
    return _build(0.33, 0.5, Neck(128, 1), num_classes, config)


def rtmdet_ins_m(num_classes: int = 80, **config: Any) -> RTMDetIns:
    """27.6 M parameters."""
    return _build(0.67, 0.75, Neck(192, 2), num_classes, config)


def rtmdet_ins_l(num_classes: int = 80, **config: Any) -> RTMDetIns:
    """57.4 M parameters: both factors 1."""
    return _build(1.0, 1.0, Neck(256, 3), num_classes, config)


def rtmdet_ins_x(num_classes: int = 80, **config: Any) -> RTMDetIns:
    """102.7 M parameters."""
    return _build(1.33, 1.25, Neck(320, 4), num_classes, config)


def rtmdet_ins_nano(num_classes: int = 80, **config: Any) -> RTMDetIns:
    """Ours, two thirds as wide as the tiny one, for CPUs."""
    return _build(0.167, 0.25, Neck(64, 1), num_classes, config)
