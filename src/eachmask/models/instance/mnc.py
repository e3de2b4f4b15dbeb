"""MNC: a cascade of box, mask and class, learnt in one piece.

Dai, He, Sun: "Instance-aware Semantic Segmentation via Multi-task Network Cascades", CVPR 2016, arXiv 1512.04412.

The idea: three questions in order, each asked with the answer to the one before. Where is something? Which of its
pixels belong to it? What is it, scored by the box and by the masked features (as CFM does)? For the whole to learn
together, a later stage's loss must reach the boxes of an earlier one: RoI warping cuts features out by bilinear
reading at places that depend on the box, so it has a gradient in the box.

The third stage also refines the box, and the second and third then run again on the refined one: the paper's five
stages, with the weights of both rounds shared. Where we differ: a pyramid instead of VGG16's last map; one refined box
for all classes; both rounds' instances are kept by suppression alone, without voting of masks (section 5).

Shapes: B images, P proposals of one image, R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import (
    Sampled,
    SamplingConfig,
    box_losses,
    labeled,
    positives,
    sample_proposals,
)
from eachmask.models.detection.faster_rcnn import (
    LIGHT_BOX_HEAD,
    LIGHT_RPN,
    BoxHead,
    BoxHeadConfig,
    BoxPredictor,
    FasterRCNN,
    RoIConfig,
    light_fpn,
    resnet_fpn,
)
from eachmask.models.detection.rpn import Raw, RPNConfig
from eachmask.models.instance.sds import keep_regions
from eachmask.models.protocol import Detections
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.match import learnable
from eachmask.ops.roi import in_groups, roi_warp
from eachmask.structures import DecodeOptions, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.instances import INSTANCES

ROI_CHUNK_SIZE = 64
"""RoIs pass the cascade in groups of so many when predicting."""


@dataclass(frozen=True)
class MaskStageConfig:
    """The second stage."""

    side: int = 28
    """M."""
    width: int = 256
    """Of the layer between features and mask (section 3.2)."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices for the first stage, and those of the other two."""

    rpn: RPNConfig = RPNConfig(post_nms_top_n=300, post_nms_top_n_training=300)
    roi: RoIConfig = RoIConfig(batch_size=64)
    box_head: BoxHeadConfig = BoxHeadConfig(class_agnostic=True)
    mask_stage: MaskStageConfig = MaskStageConfig()
    rounds: int = 2
    """How often the second and third stage run: 1 is the paper's cascade of three stages, 2 that of five."""
    box_gradient: float = 1.0
    """Share of a later stage's gradient that reaches the box it looked at; the paper passes all of it."""
    nms_threshold: float = 0.3


class Answer(NamedTuple):
    """What the second and third stage say of R RoIs."""

    masks: Tensor  # (R, M, M) logits
    logits: Tensor  # (R, K + 1), background last
    deltas: Tensor  # (R, 1, 4) of the box


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class MaskStage(nn.Module):
    """Two fully connected layers from features to a mask of no class in particular (section 3.2)."""

    def __init__(self, in_features: int, width: int, side: int) -> None:
        super().__init__()
        self.hidden, self.pixels = nn.Linear(in_features, width), nn.Linear(width, side**2)
        self.side = side
        nn.init.normal_(self.pixels.weight, std=0.01)
        nn.init.zeros_(self.pixels.bias)

    def forward(self, rois: Tensor) -> Tensor:
        """(R, C, 14, 14) -> (R, M, M) logits."""
        logits: Tensor = self.pixels(F.relu(self.hidden(rois.flatten(1)))).unflatten(1, (self.side, self.side))
        return logits


# The model ------------------------------------------------------------------------------------------------------------


class MNC(FasterRCNN):
    """A multi-task network cascade; see Faster R-CNN for the first stage."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())

    def build_box_head(self, channels: int) -> None:
        """The second and the third stage."""
        head, stage = self.config.box_head, self.config.mask_stage
        self.box_head = BoxHead(channels, head)
        self.mask_stage = MaskStage(channels * (2 * head.roi_size) ** 2, stage.width, stage.side)
        self.region_head = BoxHead(channels, head)  # beside the box's own: the pathway of masked features
        joined = self.box_head.out_features + self.region_head.out_features
        self.box_predictor = BoxPredictor(joined, self.num_classes, head.class_agnostic)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of all stages (eq. 1 - 3); those of later stages have gradients in the boxes of earlier ones.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        losses, c = self.rpn.losses(raw, targets), self.config.rpn
        boxes = self.rpn.propose(raw, c.pre_nms_top_n_training, c.post_nms_top_n_training)
        with_gt = True
        for i in range(self.config.rounds):
            sampled = [self.sampled(b, target, with_gt) for b, target in zip(boxes, targets, strict=True)]
            answer = self.answer(raw.features, [s.boxes for s in sampled])
            suffix = f"_{i + 1}" if i else ""
            losses |= {f"{k}{suffix}": v for k, v in self._round_losses(answer, sampled, targets).items()}
            boxes, with_gt = self.refined([s.boxes for s in sampled], answer, raw.sizes), False
        return losses

    def select(self, raw: Raw, options: DecodeOptions) -> Detections:
        """The instances of all rounds, suppression per class; the best first."""
        rounds = self._rounds(raw)
        kept, masks = [], []
        for i, size in enumerate(raw.sizes):
            places, scores, logits = (torch.cat([part[i] for part in column]) for column in zip(*rounds, strict=True))
            *best, index = keep_regions(places, scores, size, self.limits(options))
            kept.append((best[0], best[1], best[2]))
            masks.append(logits[index].float().sigmoid())
        found = Detections.of(raw.sizes, kept)
        return found._replace(masks=tuple(masks)) if options.with_masks else found

    def _rounds(self, raw: Raw) -> list[tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]]:
        """Of every round and image: boxes (P, 4), classes' probabilities (P, K) and logits of masks (P, M, M)."""
        c = self.config.rpn
        rounds: list[tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]] = []
        boxes = self.propose(raw, c.pre_nms_top_n, c.post_nms_top_n)
        for _ in range(self.config.rounds):
            counts = [len(b) for b in boxes]
            answers = [self.answer(raw.features, group) for group in in_groups(boxes, ROI_CHUNK_SIZE)]
            joined = Answer(*(torch.cat(column) for column in zip(*answers, strict=True)))
            scores = joined.logits.float().softmax(dim=1)[:, :-1]
            rounds.append((boxes, scores.split(counts), joined.masks.split(counts)))
            boxes = self.refined(boxes, joined, raw.sizes)
        return rounds

    def sampled(self, boxes: Tensor, target: Instances, with_gt: bool) -> Sampled:
        """Proposals (P, 4), and maybe the objects' own boxes -> a balanced set; gradients pass."""
        c = self.config.roi
        single, crowd = learnable(target, boxes.device)
        gt_boxes = target.boxes.to(boxes)
        if with_gt:
            boxes = torch.cat([boxes, gt_boxes[single]])
        with torch.no_grad():
            unusable = (box_ops.coverage(boxes, gt_boxes[crowd]) > 0.5).any(dim=1) | ~_solid(boxes)
            sampling = SamplingConfig(c.fg_iou, 0.0, c.batch_size, c.positive_fraction)
            chosen, matched = sample_proposals(box_ops.iou(gt_boxes[single], boxes), unusable, sampling)
        return labeled(boxes[chosen], single, matched, target, self.num_classes)

    def answer(self, features: Features, boxes: list[Tensor]) -> Answer:
        """Second and third stage on boxes (P, 4) of each image."""
        levels, size = self.config.roi.levels, self.config.box_head.roi_size
        maps = [level.float() for level in features.maps[:levels]]
        boxes = [_damped(b, self.config.box_gradient) for b in boxes]
        warped = roi_warp(maps, boxes, 4 * size, features.strides[:levels])
        fine = F.max_pool2d(warped, 2).to(features.maps[0].dtype)
        masks = self.mask_stage(fine)
        rois = F.max_pool2d(fine, 2)
        inside = F.adaptive_avg_pool2d(masks.sigmoid()[:, None], (rois.shape[-2], rois.shape[-1]))
        joined = torch.cat([self.box_head(rois), self.region_head(rois * inside)], dim=1)
        return Answer(masks, *self.box_predictor(joined))

    def refined(self, boxes: list[Tensor], answer: Answer, sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
        """The boxes that the third stage would rather have had."""
        parts = answer.deltas[:, 0].float().split([len(b) for b in boxes])
        moved = (self.moved(b, d, self.config.box_head.weights) for b, d in zip(boxes, parts, strict=True))
        return [box_ops.clip(b, size) for b, size in zip(moved, sizes, strict=True)]

    def _round_losses(self, answer: Answer, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        labels, gt_deltas = torch.cat([s.labels for s in sampled]), self.gt_deltas(sampled).detach()
        beta = self.config.conventions.smooth_l1_beta
        losses = box_losses(answer.logits, answer.deltas, labels, gt_deltas, beta)
        logits = answer.masks[labels < self.num_classes].float()
        if not len(logits):
            return losses | {"mask": answer.masks.sum() * 0}
        columns = zip(targets, positives(sampled, self.num_classes), strict=True)
        side = self.config.mask_stage.side
        gt_masks = [mask_targets(target.gt_masks, s.matched, s.boxes.detach(), side) for target, s in columns]
        return losses | {"mask": F.binary_cross_entropy_with_logits(logits, torch.cat(gt_masks))}


def _damped(boxes: Tensor, share: float) -> Tensor:
    """(P, 4) the same boxes, with a share of the gradient."""
    still = boxes.detach()
    return still + share * (boxes - still)


def _solid(boxes: Tensor) -> Tensor:
    """(P,) whether a box has an area worth speaking of."""
    return (boxes[:, 2:] - boxes[:, :2] >= 1e-3).all(dim=1)


# Variants -------------------------------------------------------------------------------------------------------------


LIGHT = Config(
    rpn=replace(LIGHT_RPN, post_nms_top_n_training=300),
    box_head=replace(LIGHT_BOX_HEAD, class_agnostic=True),
    mask_stage=MaskStageConfig(width=64),
    box_gradient=0.02,
    nms_threshold=0.5,
)
"""For small networks on small images.

In short training the whole gradient drags the proposals to where masks and classes are easy, away from the objects (120
steps on nuclei: the first stage's box loss was 0.26 instead of 0.10, and next to nothing was found).
"""


def mnc_r50_fpn(num_classes: int = 80, **config: Any) -> MNC:
    """ResNet-50, five stages."""
    chosen = changed(Config(), config)
    return MNC(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def mnc_lite0(num_classes: int = 80, **config: Any) -> MNC:
    """EfficientNet-Lite0 with narrow heads, five stages, for CPUs."""
    return MNC(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
