"""Cascade R-CNN: each box head learns from the boxes that the one before it has refined.

Cai, Vasconcelos: "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018, arXiv 1712.00726, and "Cascade
R-CNN: High Quality Object Detection and Instance Segmentation", TPAMI 2019, arXiv 1906.09756.

The idea: a head trained with proposals that overlap their object by 0.5 cannot tell a close box from a very close one,
and one trained with 0.7 finds too few examples. Refined boxes overlap more than proposals did, so a sequence of heads
with rising thresholds has examples enough at every stage, and meets at test time the kind of boxes it learnt from.

The same numbers as MMDetection's Cascade Mask R-CNN and Detectron2's (see ``tests/parity``); the two differ in what
the :class:`Config` says. Box regression does not depend on the class, as in the paper's implementation; Swin's authors
have a box for each class, and convolutions with normalization in every head (:data:`SWIN`).

Shapes: B images, P proposals of one image, R RoIs of all images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection import conventions, faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled, box_losses
from eachmask.models.detection.faster_rcnn import (
    LIGHT_RPN,
    BoxHead,
    BoxHeadConfig,
    BoxPredictor,
    FasterRCNN,
    light_fpn,
    resnet_fpn,
)
from eachmask.models.detection.rpn import Raw, RPNConfig
from eachmask.ops.losses import giou
from eachmask.ops.match import UNMATCHED, match_objects
from eachmask.structures import Instances, UserError
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class StagesConfig:
    """The sequence of heads; every tuple has one entry per stage."""

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    """From here on a box stands for an object (section 4.2); the first replaces ``roi.fg_iou``."""
    box_weights: tuple[box_ops.Weights, ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    """What is left to refine shrinks from stage to stage, so the deltas are magnified (section 4.1: normalized by their
    standard deviation); the first replaces ``box_head.weights``."""
    loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    gradient: float = 1.0
    """Share of each head's gradient that reaches the pyramid (Detectron2: one over the number of stages)."""
    resample: bool = True
    """Each stage samples anew from the refined boxes and the objects' own; otherwise it learns from all boxes of the
    stage before, the objects' own refined too (Detectron2)."""
    average: Literal["scores", "logits"] = "scores"
    """What of the stages' class predictions is averaged when predicting."""
    giou: float | None = None
    """Weight of the loss of generalized IoU between refined boxes and objects, instead of smooth L1 of the deltas."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the cascade's."""

    box_head: BoxHeadConfig = BoxHeadConfig(class_agnostic=True)
    stages: StagesConfig = StagesConfig()

    def __post_init__(self) -> None:
        lengths = {len(self.stages.ious), len(self.stages.box_weights), len(self.stages.loss_weights)}
        if len(lengths) > 1:
            raise UserError("stages.ious, stages.box_weights and stages.loss_weights have one value per stage")


class CascadeRCNN(FasterRCNN):
    """Faster R-CNN with a sequence of box heads."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        super().__init__(backbone, num_classes, config or Config())

    def build_box_head(self, channels: int) -> None:
        """One head per stage."""
        c = self.config
        heads, agnostic = [BoxHead(channels, c.box_head) for _ in c.stages.ious], c.box_head.class_agnostic
        self.box_heads = nn.ModuleList(heads)
        self.box_predictors = nn.ModuleList(BoxPredictor(h.out_features, self.num_classes, agnostic) for h in heads)

    def sample_proposals(
        self, proposals: Tensor, target: Instances, iou: float | None = None, with_gt: bool = True
    ) -> Sampled:
        """As in Faster R-CNN, by default with the first stage's threshold."""
        iou = self.config.stages.ious[0] if iou is None else iou
        return super().sample_proposals(proposals, target, iou, with_gt)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Every stage's class and box losses, each stage on the boxes refined by the one before."""
        losses: dict[str, Tensor] = {}
        for stage, factor in enumerate(self.config.stages.loss_weights):
            logits, deltas = self.run_stage(stage, raw.features, [s.boxes for s in sampled])
            found = self._box_losses(stage, logits, deltas, sampled)
            found |= self.stage_losses(stage, raw, sampled, targets)
            losses |= {f"{name}_{stage}": factor * value for name, value in found.items()}
            if stage + 1 < len(self.box_heads):
                chosen = self.of_class(logits, deltas, torch.cat([s.labels for s in sampled]))
                sampled = self._next(stage + 1, raw, sampled, targets, chosen)
        return losses

    def stage_losses(self, stage: int, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """What subclasses' heads learn at each stage."""
        return {}

    def second_stage(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Proposals through all stages: boxes (P, K or 1, 4) of the last, class scores (P, K) averaged over all."""
        counts, last = [len(b) for b in boxes], len(self.box_heads) - 1
        of_stage, deltas = self.run_stage(0, raw.features, boxes)
        logits = [of_stage.float()]
        for stage in range(last):
            boxes = self.refined(stage, boxes, self.of_class(of_stage, deltas), raw.sizes)
            of_stage, deltas = self.run_stage(stage + 1, raw.features, boxes)
            logits.append(of_stage.float())
        refined = self.refined(last, [b[:, None] for b in boxes], deltas, raw.sizes)
        return list(zip(refined, self.averaged(logits)[:, :-1].split(counts), strict=True))

    def averaged(self, logits: Sequence[Tensor]) -> Tensor:
        """The classes' probabilities (R, K + 1) from each stage's logits."""
        if self.config.stages.average == "logits":
            return (_sum(logits) / len(logits)).softmax(dim=-1)
        return _sum([x.softmax(dim=-1) for x in logits]) / len(logits)

    def run_stage(self, stage: int, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """One stage's RoIs of all images in one go -> (R, K + 1) logits, (R, K or 1, 4) deltas."""
        rois = self.pool(features, boxes, self.config.box_head.roi_size)
        share = self.config.stages.gradient
        if share != 1 and rois.requires_grad:
            rois = rois * share + (rois * (1 - share)).detach()
        result: tuple[Tensor, Tensor] = self.box_predictors[stage](self.box_heads[stage](rois))
        return result

    def of_class(self, logits: Tensor, deltas: Tensor, labels: Tensor | None = None) -> Tensor:
        """What moves each box to the next stage (R, 4), of a stage's deltas (R, K or 1, 4): those of its class.

        Args:
            labels: (R,) the classes where they are known, K is background; otherwise the likeliest counts.
        """
        if deltas.shape[1] == 1:
            return deltas.squeeze(1)
        classes = logits[:, :-1].argmax(dim=1)
        if labels is not None:
            classes = torch.where(labels < self.num_classes, labels, classes)
        return deltas[torch.arange(len(deltas), device=deltas.device), classes]

    def refined(
        self, stage: int, boxes: list[Tensor], deltas: Tensor, sizes: tuple[tuple[int, int], ...]
    ) -> list[Tensor]:
        """Each image's boxes (P, 4) after a stage, moved by deltas (R, 4), within the image."""
        weights = self.config.stages.box_weights[stage]
        parts = deltas.float().split([len(b) for b in boxes])
        moved = (self.moved(b, part, weights) for b, part in zip(boxes, parts, strict=True))
        return [box_ops.clip(b, size) for b, size in zip(moved, sizes, strict=True)]

    def _box_losses(self, stage: int, logits: Tensor, deltas: Tensor, sampled: list[Sampled]) -> dict[str, Tensor]:
        weights = self.config.stages.box_weights[stage]
        labels = torch.cat([s.labels for s in sampled])
        gt_deltas = torch.cat([box_ops.encode(s.matched_boxes, s.boxes, weights) for s in sampled])
        losses = box_losses(logits, deltas, labels, gt_deltas, self.config.conventions.smooth_l1_beta)
        if self.config.stages.giou is not None:
            positive = torch.nonzero(labels < self.num_classes).squeeze(1)
            boxes = torch.cat([s.boxes for s in sampled])[positive]
            gt_boxes = torch.cat([s.matched_boxes for s in sampled])[positive]
            found = self.of_class(logits, deltas.float(), labels)[positive]
            loss = giou(self.moved(boxes, found, weights), gt_boxes).sum()
            losses["box"] = self.config.stages.giou * loss / max(len(labels), 1)
        return losses

    @torch.no_grad()
    def _next(
        self, stage: int, raw: Raw, before: list[Sampled], targets: list[Instances], deltas: Tensor
    ) -> list[Sampled]:
        """What a later stage learns from.

        Args:
            deltas: (R, 4), what the stage before said of the boxes of ``before``.
        """
        refined = self.refined(stage - 1, [s.boxes for s in before], deltas, raw.sizes)
        columns = zip(refined, before, targets, strict=True)
        return [self.sample_refined(stage, boxes, s, target) for boxes, s, target in columns]

    def sample_refined(self, stage: int, boxes: Tensor, before: Sampled, target: Instances) -> Sampled:
        """What a later stage learns from, one image.

        Args:
            boxes: those of ``before``, refined.
        """
        iou = self.config.stages.ious[stage]
        if self.config.stages.resample:
            assert before.is_gt is not None
            return self.sample_proposals(boxes[~before.is_gt], target, iou)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes = boxes[solid]
        matched = match_objects(boxes, target, iou, iou)
        used = matched >= UNMATCHED
        return self.with_labels(boxes[used], matched[used], target)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """One after the other, as a running total."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


# Variants -------------------------------------------------------------------------------------------------------------

MMDET = Config(
    rpn=RPNConfig(inside_only=True),
    stages=StagesConfig(
        box_weights=tuple((1 / a, 1 / a, 1 / b, 1 / b) for a, b in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))),
        average="logits",
    ),
    conventions=replace(conventions.MMDET, rpn_smooth_l1_beta=1 / 9, smooth_l1_beta=1.0),
)
DETECTRON2 = Config(
    stages=StagesConfig(resample=False, loss_weights=(1.0, 1.0, 1.0), gradient=1 / 3),
    conventions=conventions.DETECTRON2,
)
"""What MMDetection's and Detectron2's cascades do otherwise."""
SWIN = replace(MMDET, box_head=BoxHeadConfig(convs=4, layers=1), stages=replace(MMDET.stages, giou=10.0))
"""The heads that Swin's authors trained (``giou_4conv1f``)."""
LIGHT_BOX_HEAD = replace(faster_rcnn.LIGHT_BOX_HEAD, class_agnostic=True)


def cascade_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> CascadeRCNN:
    """ResNet-50: MMDetection's ``cascade-rcnn_r50_fpn_1x_coco``."""
    chosen = changed(MMDET, config)
    return CascadeRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def cascade_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> CascadeRCNN:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    chosen = changed(Config(rpn=LIGHT_RPN, box_head=LIGHT_BOX_HEAD), config)
    return CascadeRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, chosen)
