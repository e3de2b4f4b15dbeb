"""Mask Scoring R-CNN: Mask R-CNN that says how good each mask is, instead of how sure it is of the class.

Huang, Huang, Gong, Huang, Wang: "Mask Scoring R-CNN", CVPR 2019, arXiv 1903.00241.

The idea: a detection is ranked by its class score, but measured by its mask, and the two have little to do with each
other. A fourth head looks at the RoI's features together with the mask just painted, and predicts the mask's IoU with
the object; the score is the product of both.

The same numbers as MMDetection's ``ms-rcnn_r50_fpn`` (see ``tests/parity``). Where we differ: scores are kept within
0..1 and detections sorted by them, and a threshold that the user gives is one of the product (``free_scores`` leaves
all of this).

Shapes: R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.config import changed
from eachmask.models.detection.fast_rcnn import Sampled, positives
from eachmask.models.detection.faster_rcnn import LIGHT_BOX_HEAD, LIGHT_RPN, light_fpn, resnet_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance import mask_rcnn
from eachmask.models.instance.mask_rcnn import ROI_CHUNK_SIZE, MaskRCNN, zero_of
from eachmask.models.protocol import Detections
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances, Masks
from eachmask.structures.decode import Limits


@dataclass(frozen=True)
class MaskIoUHeadConfig:
    """The fourth head."""

    convs: int = 4
    """3 x 3 convolutions, the last of stride 2 (section 3.2, MaskIoU head)."""
    width: int = 256
    layers: int = 2
    """Fully connected layers before the last one ..."""
    layer_width: int = 1024
    """... and their width."""
    loss_weight: float = 0.5
    """The paper weighs it 1."""
    threshold: float = 0.5
    """A pixel of the predicted mask counts for the true IoU if its *logit* is above this (as MMDetection has it)."""


@dataclass(frozen=True)
class Config(mask_rcnn.Config):
    """Mask R-CNN's choices and the MaskIoU head's."""

    mask_iou_head: MaskIoUHeadConfig = MaskIoUHeadConfig()
    free_scores: bool = False
    """Leave the products in the order of the class scores, and where they are negative or above 1."""


class MaskIoUHead(nn.Module):
    """RoI features and a predicted mask -> how well the mask fits (section 3.2, figure 3).

    Args:
        channels: of the features.
        roi_size: side of a RoI; the mask's is twice that.
    """

    def __init__(self, channels: int, num_classes: int, roi_size: int, config: MaskIoUHeadConfig) -> None:
        super().__init__()
        self.convs, self.layers = nn.ModuleList(), nn.ModuleList()
        widths = [channels + 1, *[config.width] * config.convs]
        strides = [1] * (config.convs - 1) + [2]
        for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            conv = nn.Conv2d(a, b, 3, stride, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.convs.append(conv)
        side = (roi_size + 1) // 2
        sizes = [widths[-1] * side**2, *[config.layer_width] * config.layers]
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layer = nn.Linear(a, b)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            self.layers.append(layer)
        self.ious = nn.Linear(sizes[-1], num_classes)
        nn.init.normal_(self.ious.weight, std=0.01)
        for module in (*self.convs, *self.layers, self.ious):
            nn.init.zeros_(module.bias)

    def forward(self, rois: Tensor, logits: Tensor) -> Tensor:
        """(R, C, 14, 14) features and (R, M, M) logits of the mask -> (R, K) predicted IoU, not bounded."""
        mask = F.max_pool2d(logits.sigmoid()[:, None], kernel_size=2, stride=2)
        x = torch.cat([rois, mask.to(rois.dtype)], dim=1)
        for conv in self.convs:
            x = F.relu(conv(x))
        x = x.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        result: Tensor = self.ious(x)
        return result


class MaskScoringRCNN(MaskRCNN):
    """Mask R-CNN with a MaskIoU head."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.mask_iou_head = MaskIoUHead(
            backbone.channels[0], num_classes, config.mask_head.roi_size, config.mask_iou_head
        )

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the mask loss, and the squared error of the true class's IoU on positive RoIs (section 3.2)."""
        losses = super(MaskRCNN, self).head_losses(raw, sampled, targets)
        boxes, labels, gt_masks = self.mask_targets(sampled, targets)
        if not len(labels):
            nothing = zero_of(self.mask_head, self.mask_iou_head)
            return losses | {"mask": nothing, "mask_iou": nothing}
        rois = self.pool(raw.features, boxes, self.config.mask_head.roi_size)
        logits = self.mask_head(rois, labels)
        ious = self.mask_iou_head(rois, logits).float().gather(1, labels[:, None]).squeeze(1)
        gt_ious = self.gt_ious(logits, gt_masks, sampled, targets)
        learnt = gt_ious > 0
        error = F.mse_loss(ious[learnt], gt_ious[learnt]) if learnt.any() else ious.sum() * 0
        return losses | {
            "mask": F.binary_cross_entropy_with_logits(logits.float(), gt_masks),
            "mask_iou": self.config.mask_iou_head.loss_weight * error,
        }

    def gt_ious(self, logits: Tensor, gt_masks: Tensor, sampled: list[Sampled], targets: list[Instances]) -> Tensor:
        """How well predicted masks (R, M, M) of the positive RoIs fit their objects: (R,) 0..1."""
        columns = zip(targets, positives(sampled, self.num_classes), strict=True)
        inside = [share_inside(t.gt_masks, s.matched, s.boxes) for t, s in columns if t.masks is not None]
        predicted = logits.detach().float() > self.config.mask_iou_head.threshold
        return mask_iou_targets(predicted, gt_masks, torch.cat(inside))

    def select_heads(self, raw: Raw, found: Detections, options: DecodeOptions) -> Detections:
        """Adds masks, and multiplies each score by the mask's predicted IoU (section 3.3, inference)."""
        logits, ious = self.scored_masks(raw.features, list(found.boxes), torch.cat(found.labels))
        scores = tuple(s * iou for s, iou in zip(found.scores, found.per_image(ious), strict=True))
        masks = found.per_image(logits.float().sigmoid()) if options.with_masks else None
        scored = found._replace(scores=scores, masks=masks)
        return scored if self.config.free_scores else best_first(scored, options)

    def limits(self, options: DecodeOptions) -> Limits:
        """As many candidates as usual even if fewer detections are asked for: the best are known after scoring."""
        limits = super().limits(options)
        score, most = limits.score_threshold, max(limits.max_detections, self.config.max_detections)
        if not self.config.free_scores:  # what is asked for is of the product, which an IoU may raise
            score = min(score, self.config.score_threshold)
        return limits._replace(score_threshold=score, max_detections=most)

    def scored_masks(self, features: Features, boxes: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes of all images with a class each -> (R, M, M) logits, (R,) predicted IoU."""
        masks, ious = [], []
        for some, k in zip(in_groups(boxes, ROI_CHUNK_SIZE), labels.split(ROI_CHUNK_SIZE), strict=True):
            rois = self.pool(features, some, self.config.mask_head.roi_size)
            masks.append(self.mask_head(rois, k))
            ious.append(self.mask_iou_head(rois, masks[-1]).float().gather(1, k[:, None]).squeeze(1))
        return torch.cat(masks), torch.cat(ious)


# Target assignment ----------------------------------------------------------------------------------------------------


def share_inside(masks: Masks, matched: Tensor, boxes: Tensor) -> Tensor:
    """How much of its object lies in each RoI, cut to whole pixels: (R,) 0..1.

    Args:
        masks: of the image's objects.
        matched: (R,) which object each RoI stands for.
        boxes: (R, 4) px.
    """
    height, width = masks.size
    areas = masks.area()
    result = boxes.new_zeros(len(boxes))
    for row, (index, box) in enumerate(zip(matched.tolist(), boxes.tolist(), strict=True)):
        x1, y1 = max(int(box[0]), 0), max(int(box[1]), 0)
        x2, y2 = max(min(int(box[2]), width), x1 + 1), max(min(int(box[3]), height), y1 + 1)
        inside = masks[index].crop((x1, y1, x2, y2)).area()[0]
        result[row] = float(inside) / (float(areas[index]) + 1e-7)
    return result


def mask_iou_targets(predicted: Tensor, gt_masks: Tensor, inside: Tensor) -> Tensor:
    """The IoU that the head should have said (section 3.2, training): (R,) 0..1.

    A RoI may hold only a part of its object, but the mask shall be scored by the whole; so the true area is that within
    the RoI over the share of the object that lies there.

    Args:
        predicted: (R, M, M) bool, the predicted mask.
        gt_masks: (R, M, M) 0..1, the true mask within the RoI.
        inside: (R,) from :func:`share_inside`.
    """
    predicted = predicted.to(gt_masks)
    common = (predicted * gt_masks).sum((1, 2))
    whole = gt_masks.sum((1, 2)) / (inside + 1e-7)
    union = predicted.sum((1, 2)) + whole - common
    return torch.where(union > 0, common / union.clamp(min=1e-7), torch.zeros_like(union))


def best_first(found: Detections, options: DecodeOptions) -> Detections:
    """By score, as many and as good as the user wants; the model's own threshold is of the class score."""
    order = []
    for scores in found.scores:
        best = torch.argsort(scores.clamp(0, 1), descending=True, stable=True)[: options.max_detections]
        if options.score_threshold is not None:
            best = best[scores.clamp(0, 1)[best] > options.score_threshold]
        order.append(best)
    return found._replace(scores=tuple(s.clamp(0, 1) for s in found.scores)).take(order)


# Variants -------------------------------------------------------------------------------------------------------------

MMDET = Config(rpn=mask_rcnn.MMDET.rpn, roi=mask_rcnn.MMDET.roi, conventions=mask_rcnn.MMDET.conventions)
LIGHT = Config(
    rpn=LIGHT_RPN,
    box_head=LIGHT_BOX_HEAD,
    mask_head=mask_rcnn.LIGHT.mask_head,
    mask_iou_head=MaskIoUHeadConfig(width=64, layer_width=256),
)


def mask_scoring_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """ResNet-50: MMDetection's ``ms-rcnn_r50_fpn_1x_coco``."""
    chosen = changed(MMDET, config)
    return MaskScoringRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def mask_scoring_rcnn_r50_caffe_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """ResNet-50 that halves maps first: MMDetection's ``ms-rcnn_r50-caffe_fpn_2x_coco``; wants BGR."""
    chosen = changed(MMDET, config)
    return MaskScoringRCNN(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def mask_scoring_rcnn_r101_caffe_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """ResNet-101 that halves maps first: MMDetection's ``ms-rcnn_r101-caffe_fpn_2x_coco``; wants BGR."""
    chosen = changed(MMDET, config)
    return MaskScoringRCNN(resnet_fpn("resnet101", chosen.norm_eps, stride_first=True), num_classes, chosen)


def mask_scoring_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """EfficientNet-Lite0 with narrow heads, for CPUs."""
    return MaskScoringRCNN(light_fpn("tf_efficientnet_lite0"), num_classes, changed(LIGHT, config))
