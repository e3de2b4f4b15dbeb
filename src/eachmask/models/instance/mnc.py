"""MNC: a cascade of box, mask and class, learnt in one piece.

Dai, He, Sun: "Instance-aware Semantic Segmentation via Multi-task Network Cascades", CVPR 2016, arXiv 1512.04412.

The idea: three questions in order, each asked with the answer to the one before. Where is something? Which of its
pixels belong to it? What is it, judged by the box and by the masked features (as CFM does)? For the whole to learn
together, a later stage's loss must reach the boxes of an earlier one: RoI warping cuts features out by bilinear
reading at places that depend on the box, so it has a gradient in the box.

The third stage also mends the box, and the second and third then run again on the mended one: the paper's five stages,
with the weights of both rounds shared. Where we differ: a pyramid instead of VGG16's last map; one mended box for all
classes; both rounds' instances are kept by suppression alone, without voting of masks (section 5).

Shapes: B images, P proposals of one image, R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Config as Sampling
from eachmask.models.detection.fast_rcnn import Sampled, box_losses, draw, labeled
from eachmask.models.detection.faster_rcnn import BoxHead, BoxPredictor, FasterRCNN, light_fpn, resnet_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance.sds import select_regions
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.match import learnable
from eachmask.ops.roi import in_groups, roi_warp
from eachmask.structures import DecodeOptions, Instances, RoIMasks
from eachmask.structures import boxes as box_ops

ROIS_AT_ONCE = 64
"""RoIs pass the cascade in groups of so many when predicting."""


@dataclass(frozen=True)
class Config(faster_rcnn.Config):
    """Faster R-CNN's choices for the first stage, and those of the other two."""

    rounds: int = 2
    """How often the second and third stage run: 1 is the paper's cascade of three stages, 2 that of five."""
    mask_side: int = 28
    """M."""
    mask_width: int = 256
    """Of the layer between features and mask (section 3.2)."""
    box_agnostic: bool = True
    proposals: int = 300
    proposals_training: int = 300
    roi_batch: int = 64
    nms_threshold: float = 0.3
    box_gradient: float = 1.0
    """Share of a later stage's gradient that goes on to the box it looked at; the paper passes all of it."""


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
        return self.pixels(F.relu(self.hidden(rois.flatten(1)))).unflatten(1, (self.side, self.side))


# The model ------------------------------------------------------------------------------------------------------------


class MNC(FasterRCNN):
    """A multi-task network cascade; see Faster R-CNN for the three verbs and the first stage."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        channels = backbone.channels[0]
        self.mask_stage = MaskStage(channels * (2 * config.roi_size) ** 2, config.mask_width, config.mask_side)
        self.region_head = BoxHead(channels, config)  # beside the box's own: the pathway of masked features
        joined = self.box_head.out_features + self.region_head.out_features
        self.box_predictor = BoxPredictor(joined, num_classes, config.box_agnostic)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Losses of all stages (eq. 1 - 3); those of later stages have gradients in the boxes of earlier ones.

        Args:
            targets: one per image, in pixels of the batch, with labels and masks.
        """
        losses = self.rpn.losses(raw, targets)
        boxes = self.rpn.propose(raw, self.config.rpn_candidates_training, self.config.proposals_training)
        with_truth = True
        for i in range(self.config.rounds):
            sampled = [self.sampled(b, target, with_truth) for b, target in zip(boxes, targets, strict=True)]
            answer = self.answer(raw.features, [s.boxes for s in sampled])
            suffix = f"_{i + 1}" if i else ""
            losses |= {f"{k}{suffix}": v for k, v in self._round_losses(answer, sampled, targets).items()}
            boxes, with_truth = self.mended([s.boxes for s in sampled], answer, raw.sizes), False
        return losses

    def decode(self, raw: Raw, options: DecodeOptions) -> list[Instances]:
        """The instances of all rounds, suppression per class; the best first."""
        boxes = self.propose(raw, self.config.rpn_candidates, self.config.proposals)
        every: list[tuple[list[Tensor], Tensor, Tensor]] = []
        for _ in range(self.config.rounds):
            answers = [self.answer(raw.features, group) for group in in_groups(boxes, ROIS_AT_ONCE)]
            joined = Answer(*(torch.cat(column) for column in zip(*answers, strict=True)))
            every.append((boxes, joined.logits.float().softmax(dim=1)[:, :-1], joined.masks))
            boxes = self.mended(boxes, joined, raw.sizes)
        results = []
        for i, size in enumerate(raw.sizes):
            rounds = [(b[i], *(x.split([len(y) for y in b])[i] for x in others)) for b, *others in every]
            places, scores, masks = (torch.cat(column) for column in zip(*rounds, strict=True))
            found, kept = select_regions(places, scores, size, self.limits(options))
            if options.with_masks:
                inside = masks[kept].float().sigmoid()
                found.masks = RoIMasks(inside, found.boxes, size, options.mask_threshold, options.paste)
            results.append(found)
        return results

    def sampled(self, boxes: Tensor, target: Instances, with_truth: bool) -> Sampled:
        """Proposals (P, 4), and maybe the objects' own boxes -> a balanced set; gradients pass."""
        c = self.config
        single, crowd = learnable(target, boxes.device)
        truth = target.boxes.to(boxes)
        if with_truth:
            boxes = torch.cat([boxes, truth[single]])
        with torch.no_grad():
            in_crowd = (box_ops.coverage(boxes, truth[crowd]) > 0.5).any(dim=1)
            sampling = Sampling(roi_iou=c.roi_iou, roi_low=0.0, roi_batch=c.roi_batch, roi_positive=c.roi_positive)
            chosen, matched = draw(box_ops.iou(truth[single], boxes), in_crowd | ~_solid(boxes), sampling)
        return labeled(boxes[chosen], single, matched, target, self.num_classes)

    def answer(self, features: Features, boxes: list[Tensor]) -> Answer:
        """Second and third stage on boxes (P, 4) of each image."""
        maps = [level.float() for level in features.maps[: self.config.roi_levels]]
        boxes = [_damped(b, self.config.box_gradient) for b in boxes]
        warped = roi_warp(maps, boxes, 4 * self.config.roi_size, features.strides[: self.config.roi_levels])
        fine = F.max_pool2d(warped, 2).to(features.maps[0].dtype)
        masks = self.mask_stage(fine)
        rois = F.max_pool2d(fine, 2)
        inside = F.adaptive_avg_pool2d(masks.sigmoid()[:, None], rois.shape[-2:])
        joined = torch.cat([self.box_head(rois), self.region_head(rois * inside)], dim=1)
        return Answer(masks, *self.box_predictor(joined))

    def mended(self, boxes: list[Tensor], answer: Answer, sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
        """The boxes that the third stage would rather have had."""
        parts = answer.deltas[:, 0].float().split([len(b) for b in boxes])
        moved = (self.shifted(b, s, self.config.box_weights) for b, s in zip(boxes, parts, strict=True))
        return [box_ops.clip(b, size) for b, size in zip(moved, sizes, strict=True)]

    def _round_losses(self, answer: Answer, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        labels = torch.cat([s.labels for s in sampled])
        wanted = [box_ops.encode(s.matched_boxes, s.boxes, self.config.box_weights).detach() for s in sampled]
        losses = box_losses(answer.logits, answer.deltas, labels, torch.cat(wanted), self.config.smooth_l1_beta)
        drawn = []
        for s, target in zip(sampled, targets, strict=True):
            rows = torch.nonzero(s.labels < self.num_classes).squeeze(1)
            boxes = s.boxes[rows].detach()
            drawn.append(mask_targets(target.gt_masks, s.matched[rows], boxes, self.config.mask_side))
        logits = answer.masks[labels < self.num_classes].float()
        if not len(logits):
            return losses | {"mask": answer.masks.sum() * 0}
        return losses | {"mask": F.binary_cross_entropy_with_logits(logits, torch.cat(drawn))}


def _damped(boxes: Tensor, share: float) -> Tensor:
    """(P, 4) the same boxes, with a share of the gradient."""
    still = boxes.detach()
    return still + share * (boxes - still)


def _solid(boxes: Tensor) -> Tensor:
    """(P,) whether a box has an area worth speaking of."""
    return (boxes[:, 2:] - boxes[:, :2] >= 1e-3).all(dim=1)


# Variants -------------------------------------------------------------------------------------------------------------


def mnc_r50_fpn(num_classes: int = 80, **config: Any) -> MNC:
    """ResNet-50, five stages."""
    chosen = Config(**config)
    return MNC(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def mnc_lite0(num_classes: int = 80, **config: Any) -> MNC:
    """EfficientNet-Lite0 with narrow heads, five stages, for processors without a GPU.

    In short training the whole gradient drags the proposals to where masks and classes are easy, away from the objects
    (120 steps on nuclei: the first stage's box loss was 0.26 instead of 0.10, and next to nothing was found).
    """
    light = faster_rcnn.LIGHT | {"mask_width": 64, "nms_threshold": 0.5, "box_gradient": 0.02}
    return MNC(light_fpn("tf_efficientnet_lite0"), num_classes, Config(**(light | config)))
