"""Cascade R-CNN: each box head learns from the boxes that the one before it has mended.

Cai, Vasconcelos: "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018, arXiv 1712.00726, and "Cascade
R-CNN: High Quality Object Detection and Instance Segmentation", TPAMI 2019, arXiv 1906.09756.

The idea: a head trained with proposals that overlap their object by 0.5 cannot tell a close box from a very close one,
and one trained with 0.7 finds too few examples. Mended boxes overlap more than proposals did, so a sequence of heads
with rising thresholds has examples enough at every stage, and meets at test time the kind of boxes it learnt from.

The same numbers as MMDetection's Cascade Mask R-CNN and Detectron2's (see ``tests/parity``); the two differ in what
the :class:`Config` says. Box regression does not depend on the class, as in the paper's implementation.

Shapes: B images, P proposals of one image, R RoIs of all images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled, box_losses
from eachmask.models.detection.faster_rcnn import BoxHead, BoxPredictor, FasterRCNN, light_fpn, resnet_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.ops.match import UNMATCHED, match_objects
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices and the cascade's; every tuple has one entry per stage."""

    box_agnostic: bool = True
    stage_ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    """From here on a box stands for an object (section 4.2); the first replaces ``roi_iou``."""
    stage_box_weights: tuple[box_ops.Weights, ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    """What is left to mend shrinks from stage to stage, so the deltas are magnified (section 4.1: normalized by their
    standard deviation); the first replaces ``box_weights``."""
    stage_loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    stage_gradient: float = 1.0
    """Share of each head's gradient that reaches the pyramid (Detectron2: one over the number of stages)."""
    resample: bool = True
    """Each stage draws anew from the mended boxes and the true ones; otherwise it learns from all boxes of the stage
    before, the true ones mended too (Detectron2)."""
    average: Literal["scores", "logits"] = "scores"
    """What of the stages' class predictions is averaged when predicting."""


class CascadeRCNN(FasterRCNN):
    """Faster R-CNN with a sequence of box heads; see there for the three verbs."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        _check(config)
        del self.box_head, self.box_predictor
        num_stages = len(config.stage_ious)
        heads = [BoxHead(backbone.channels[0], config) for _ in range(num_stages)]
        self.box_heads = nn.ModuleList(heads)
        self.box_predictors = nn.ModuleList(
            BoxPredictor(head.out_features, num_classes, config.box_agnostic) for head in heads
        )

    def sample_proposals(
        self, proposals: Tensor, target: Instances, iou: float | None = None, with_truth: bool = True
    ) -> Sampled:
        """As in Faster R-CNN, by default with the first stage's threshold."""
        iou = self.config.stage_ious[0] if iou is None else iou
        return super().sample_proposals(proposals, target, iou, with_truth)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Every stage's class and box losses, each stage on the boxes mended by the one before."""
        c = self.config
        losses: dict[str, Tensor] = {}
        for stage, factor in enumerate(c.stage_loss_weights):
            logits, deltas = self.run_stage(stage, raw.features, [s.boxes for s in sampled])
            labels = torch.cat([s.labels for s in sampled])
            wanted = torch.cat([box_ops.encode(s.matched_boxes, s.boxes, c.stage_box_weights[stage]) for s in sampled])
            found = box_losses(logits, deltas, labels, wanted, c.smooth_l1_beta)
            found |= self.stage_losses(stage, raw, sampled, targets)
            losses |= {f"{name}_{stage}": factor * value for name, value in found.items()}
            if stage + 1 < len(c.stage_ious):
                with torch.no_grad():
                    mended = self.mended(stage, [s.boxes for s in sampled], deltas, raw.sizes)
                    sampled = [
                        self._next(stage + 1, boxes, s, target)
                        for boxes, s, target in zip(mended, sampled, targets, strict=True)
                    ]
        return losses

    def stage_losses(self, stage: int, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """What subclasses' heads learn at each stage."""
        return {}

    def judge(self, raw: Raw, boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Proposals through all stages: boxes (P, 1, 4) of the last, class scores (P, K) averaged over all."""
        counts = [len(b) for b in boxes]
        total: Tensor | None = None
        num_stages = len(self.box_heads)
        for stage in range(num_stages):
            logits, deltas = self.run_stage(stage, raw.features, boxes)
            scores = logits.float() if self.config.average == "logits" else logits.float().softmax(dim=-1)
            total = scores if total is None else total + scores
            boxes = self.mended(stage, boxes, deltas, raw.sizes)
        assert total is not None
        mean = total / num_stages
        if self.config.average == "logits":
            mean = mean.softmax(dim=-1)
        return [(b[:, None], p) for b, p in zip(boxes, mean[:, :-1].split(counts), strict=True)]

    def run_stage(self, stage: int, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """One stage's RoIs of all images in one go -> (R, K + 1) logits, (R, 1, 4) deltas."""
        rois = self.pool(features, boxes, self.config.roi_size)
        share = self.config.stage_gradient
        if share != 1 and rois.requires_grad:
            rois = rois * share + (rois * (1 - share)).detach()
        result: tuple[Tensor, Tensor] = self.box_predictors[stage](self.box_heads[stage](rois))
        return result

    def mended(
        self, stage: int, boxes: list[Tensor], deltas: Tensor, sizes: tuple[tuple[int, int], ...]
    ) -> list[Tensor]:
        """Each image's boxes (P, 4) after a stage, within the image."""
        weights = self.config.stage_box_weights[stage]
        parts = deltas.float().squeeze(1).split([len(b) for b in boxes])
        mended = (self.shifted(b, part, weights) for b, part in zip(boxes, parts, strict=True))
        return [box_ops.clip(b, size) for b, size in zip(mended, sizes, strict=True)]

    def _next(self, stage: int, boxes: Tensor, before: Sampled, target: Instances) -> Sampled:
        """What a later stage learns from, one image.

        Args:
            boxes: those of ``before``, mended.
        """
        iou = self.config.stage_ious[stage]
        if self.config.resample:
            assert before.is_truth is not None
            return self.sample_proposals(boxes[~before.is_truth], target, iou)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return self._all_of(boxes[solid], target, iou)

    def _all_of(self, boxes: Tensor, target: Instances, iou: float) -> Sampled:
        """All boxes (P, 4) that are not ignored, with labels."""
        matched = match_objects(boxes, target, iou, iou)
        used = matched >= UNMATCHED
        boxes, matched = boxes[used], matched[used]
        assert target.labels is not None
        truth, classes = target.boxes.to(boxes), target.labels.to(boxes.device)
        labels = torch.full_like(matched, self.num_classes)
        labels[matched >= 0] = classes[matched[matched >= 0]]
        return Sampled(boxes, labels, matched, truth[matched.clamp(min=0)] if len(truth) else boxes)


def _check(config: Config) -> None:
    lengths = {len(config.stage_ious), len(config.stage_box_weights), len(config.stage_loss_weights)}
    if len(lengths) > 1 or not config.box_agnostic:
        raise ValueError("a cascade has a threshold, box weight and loss weight per stage, and a box for all classes")


# Variants -------------------------------------------------------------------------------------------------------------

_MMDET_WEIGHTS = tuple((1 / a, 1 / a, 1 / b, 1 / b) for a, b in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)))
MMDET: dict[str, Any] = faster_rcnn.MMDET | {
    "rpn_inside": True, "rpn_beta": 1 / 9, "smooth_l1_beta": 1.0, "average": "logits",
    "stage_box_weights": _MMDET_WEIGHTS, "proposals_training": 2000,
}  # fmt: skip
DETECTRON2: dict[str, Any] = faster_rcnn.DETECTRON2 | {
    "resample": False, "stage_loss_weights": (1.0, 1.0, 1.0), "stage_gradient": 1 / 3, "proposals_training": 2000,
}  # fmt: skip
"""What MMDetection's and Detectron2's cascades do otherwise."""


def cascade_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> CascadeRCNN:
    """ResNet-50: MMDetection's ``cascade-rcnn_r50_fpn_1x_coco``."""
    chosen = Config(**(MMDET | config))
    return CascadeRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def cascade_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> CascadeRCNN:
    """EfficientNet-Lite0 with narrow heads, for processors without a GPU."""
    chosen = Config(**(faster_rcnn.LIGHT | config))
    return CascadeRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, chosen)
