"""Mask Scoring R-CNN: Mask R-CNN that says how good each mask is, instead of how sure it is of the class.

Huang, Huang, Gong, Huang, Wang: "Mask Scoring R-CNN", CVPR 2019, arXiv 1903.00241.

The idea: a detection is ranked by its class score, but judged by its mask, and the two have little to do with each
other. A fourth head looks at the RoI's features together with the mask just painted, and predicts the mask's IoU with
the truth; the score is the product of both.

The same numbers as MMDetection's ``ms-rcnn_r50_fpn`` (see ``tests/parity``). Where we differ: scores are kept within
0..1 and detections sorted by them, and a threshold that the user gives is one of the product (``free_scores`` leaves
all of this).

Shapes: R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.models.detection import faster_rcnn
from eachmask.models.detection.fast_rcnn import Sampled
from eachmask.models.detection.faster_rcnn import light_fpn, resnet_fpn
from eachmask.models.detection.rpn import Raw
from eachmask.models.instance import mask_rcnn
from eachmask.models.instance.mask_rcnn import ROIS_AT_ONCE, MaskRCNN, sampled_mask_targets
from eachmask.ops.roi import in_groups
from eachmask.structures import DecodeOptions, Instances, Masks, RoIMasks


@dataclass(frozen=True)
class Config(mask_rcnn.Config):
    """Mask R-CNN's choices and the MaskIoU head's."""

    iou_convs: int = 4
    """3 x 3 convolutions, the last of stride 2 (section 3.2, MaskIoU head)."""
    iou_width: int = 256
    iou_layers: int = 2
    """Fully connected layers before the last one ..."""
    iou_layer_width: int = 1024
    """... and their width."""
    iou_weight: float = 0.5
    """Of its loss; the paper weighs it 1."""
    iou_threshold: float = 0.5
    """A pixel of the predicted mask counts for the true IoU if its *logit* is above this (as MMDetection has it)."""
    free_scores: bool = False
    """Leave the products in the order of the class scores, and where they are negative or above 1."""


class MaskIoUHead(nn.Module):
    """RoI features and a painted mask -> how well the mask fits (section 3.2, figure 3)."""

    def __init__(self, channels: int, num_classes: int, config: Config) -> None:
        super().__init__()
        self.convs, self.layers = nn.ModuleList(), nn.ModuleList()
        widths = [channels + 1, *[config.iou_width] * config.iou_convs]
        strides = [1] * (config.iou_convs - 1) + [2]
        for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            conv = nn.Conv2d(a, b, 3, stride, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.convs.append(conv)
        side = (config.mask_roi_size + 1) // 2
        sizes = [widths[-1] * side**2, *[config.iou_layer_width] * config.iou_layers]
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
    """Mask R-CNN with a MaskIoU head; see Faster R-CNN for the three verbs."""

    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(backbone, num_classes, config)
        self.mask_iou_head = MaskIoUHead(backbone.channels[0], num_classes, config)

    def head_losses(self, raw: Raw, sampled: list[Sampled], targets: list[Instances]) -> dict[str, Tensor]:
        """Adds the mask loss, and the squared error of the true class's IoU on positive RoIs (section 3.2)."""
        losses = super(MaskRCNN, self).head_losses(raw, sampled, targets)
        boxes, labels, wanted = sampled_mask_targets(sampled, targets, self.num_classes, self.config)
        if not len(labels):
            unused = (*self.mask_head.parameters(), *self.mask_iou_head.parameters())
            nothing = torch.stack([p.sum() * 0 for p in unused]).sum()
            return losses | {"mask": nothing, "mask_iou": nothing}
        rois = self.pool(raw.features, boxes, self.config.mask_roi_size)
        logits = self.mask_head(rois, labels)
        ious = self.mask_iou_head(rois, logits).float().gather(1, labels[:, None]).squeeze(1)
        inside = torch.cat(
            [
                share_inside(target.masks, s.matched[s.labels < self.num_classes], b)
                for target, s, b in zip(targets, sampled, boxes, strict=True)
                if target.masks is not None
            ]
        )
        truth = mask_iou_targets(logits.detach().float() > self.config.iou_threshold, wanted, inside)
        learnt = truth > 0
        error = F.mse_loss(ious[learnt], truth[learnt]) if learnt.any() else ious.sum() * 0
        return losses | {
            "mask": F.binary_cross_entropy_with_logits(logits.float(), wanted),
            "mask_iou": self.config.iou_weight * error,
        }

    def decode_heads(self, raw: Raw, instances: list[Instances], options: DecodeOptions) -> list[Instances]:
        """Adds masks, and multiplies each score by the mask's predicted IoU (section 3.3, inference)."""
        labels = torch.cat([i.labels for i in instances if i.labels is not None])
        logits, ious = self.scored_masks(raw.features, [i.boxes for i in instances], labels)
        counts = [len(i) for i in instances]
        results = []
        for found, p, iou in zip(instances, logits.float().sigmoid().split(counts), ious.split(counts), strict=True):
            assert found.scores is not None
            scores = found.scores * iou
            masks = RoIMasks(p, found.boxes, found.image_size, options.mask_threshold, options.paste)
            scored = replace(found, scores=scores, masks=masks if options.with_masks else None)
            results.append(scored if self.config.free_scores else _best(scored, options))
        return results

    def limits(self, options: DecodeOptions) -> tuple[float, float, int]:
        """As many candidates as usual even if fewer detections are wanted: which are best is known after scoring."""
        score, overlap, wanted = super().limits(options)
        return score, overlap, max(wanted, self.config.max_detections)

    def scored_masks(self, features: Features, boxes: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes of all images with a class each -> (R, M, M) logits, (R,) predicted IoU."""
        masks, ious = [], []
        for some, k in zip(in_groups(boxes, ROIS_AT_ONCE), labels.split(ROIS_AT_ONCE), strict=True):
            rois = self.pool(features, some, self.config.mask_roi_size)
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


def mask_iou_targets(painted: Tensor, wanted: Tensor, inside: Tensor) -> Tensor:
    """The IoU that the head should have said (section 3.2, training): (R,) 0..1.

    A RoI may hold only a part of its object, but the mask shall be judged by the whole; so the true area is that within
    the RoI over the share of the object that lies there.

    Args:
        painted: (R, M, M) bool, the predicted mask.
        wanted: (R, M, M) 0..1, the true mask within the RoI.
        inside: (R,) from :func:`share_inside`.
    """
    painted = painted.to(wanted)
    common = (painted * wanted).sum((1, 2))
    whole = wanted.sum((1, 2)) / (inside + 1e-7)
    union = painted.sum((1, 2)) + whole - common
    return torch.where(union > 0, common / union.clamp(min=1e-7), torch.zeros_like(union))


def _best(found: Instances, options: DecodeOptions) -> Instances:
    """Best first, as many and as good as the user wants; the model's own threshold is of the class score."""
    assert found.scores is not None
    scores = found.scores.clamp(0, 1)
    order = torch.argsort(scores, descending=True, stable=True)[: options.max_detections]
    if options.score_threshold is not None:
        order = order[scores[order] > options.score_threshold]
    return replace(found, scores=scores)[order]


# Variants -------------------------------------------------------------------------------------------------------------


def mask_scoring_rcnn_r50_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """ResNet-50: MMDetection's ``ms-rcnn_r50_fpn_1x_coco``."""
    chosen = Config(**(mask_rcnn.MMDET | config))
    return MaskScoringRCNN(resnet_fpn("resnet50", chosen.norm_eps), num_classes, chosen)


def mask_scoring_rcnn_r50_caffe_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """ResNet-50 that halves maps first: MMDetection's ``ms-rcnn_r50-caffe_fpn_2x_coco``; wants BGR."""
    chosen = Config(**(mask_rcnn.MMDET | config))
    return MaskScoringRCNN(resnet_fpn("resnet50", chosen.norm_eps, stride_first=True), num_classes, chosen)


def mask_scoring_rcnn_r101_caffe_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """ResNet-101 that halves maps first: MMDetection's ``ms-rcnn_r101-caffe_fpn_2x_coco``; wants BGR."""
    chosen = Config(**(mask_rcnn.MMDET | config))
    return MaskScoringRCNN(resnet_fpn("resnet101", chosen.norm_eps, stride_first=True), num_classes, chosen)


def mask_scoring_rcnn_lite0_fpn(num_classes: int = 80, **config: Any) -> MaskScoringRCNN:
    """EfficientNet-Lite0 with narrow heads, for processors without a GPU."""
    light = {"mask_width": 128, "iou_width": 64, "iou_layer_width": 256}
    return MaskScoringRCNN(
        light_fpn("tf_efficientnet_lite0"), num_classes, Config(**(faster_rcnn.LIGHT | light | config))
    )
