"""CenterMask: FCOS that also paints each object, with attention to where in the box it is.

Lee, Park: "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020, arXiv 1911.06667; version 2, which this
is, adds mask scoring (Huang et al., arXiv 1903.00241).

The idea: Mask R-CNN's mask head on the boxes of a one-stage detector. Before it paints, the head looks at mean and
maximum over channels and weighs every place of the RoI by what it sees there: objects up, background down. A RoI is
cut from the level that fits its share of *this* image, not a size in pixels; and as class scores say little about
masks, a second head predicts each mask's IoU, which lowers the score.

Written from the papers; the same numbers as the authors' second version (see ``tests/parity``). Where we differ:
besides what :mod:`~eachmask.models.detection.fcos` says, detections are sorted by the lowered score, which is kept
within 0..1; true masks that are not polygons are cut out by RoIAlign. As theirs, a mask painted for a box that reaches
beyond the image is pasted into the clipped box.

Shapes: R RoIs of all images, K classes, M = 28 the side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.features import Features
from eachmask.backbones.fpn import FPN
from eachmask.backbones.networks import ResNet, Timm
from eachmask.backbones.vovnet import VoVNet
from eachmask.models.config import changed
from eachmask.models.detection import fcos
from eachmask.models.detection.dense import Kept, detections
from eachmask.models.detection.fcos import PointDetector, Raw, p3_to_p7
from eachmask.models.instance.mask_rcnn import MaskHead, MaskHeadConfig, zero_of
from eachmask.models.instance.mask_scoring import MaskIoUHead, MaskIoUHeadConfig, mask_iou_targets, share_inside
from eachmask.models.protocol import Detections, Detector
from eachmask.ops.mask_targets import mask_targets
from eachmask.ops.match import learnable, match
from eachmask.ops.roi import in_groups, roi_align
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Masks, Polygons
from eachmask.structures import boxes as box_ops
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial

ROI_CHUNK_SIZE = 64
"""RoIs painted together when predicting."""


@dataclass(frozen=True)
class RoIConfig:
    """Which boxes are painted, from which levels, and which of them are learnt from."""

    levels: int = 3
    """So many of the finest levels are pooled from."""
    proposals_training: int = 100
    """Detections per image that the heads learn from, beside the objects' own boxes ..."""
    fg_iou: float = 0.5
    """... where they overlap an object so much ..."""
    batch_size: int = 128
    """... and at most so many, a random choice."""


@dataclass(frozen=True)
class Config(fcos.Config):
    """FCOS's choices, in which the authors' differ from MMDetection's, and those of both heads of the RoIs."""

    assign: fcos.AssignConfig = fcos.AssignConfig(box_loss="smoothed")
    select: fcos.SelectConfig = fcos.SelectConfig("root", best_by="product", clip_first=False)
    roi: RoIConfig = RoIConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    mask_iou_head: MaskIoUHeadConfig = MaskIoUHeadConfig(loss_weight=1.0, threshold=0.0)
    max_detections: int = 50


# Blocks, in the order of the data -------------------------------------------------------------------------------------


class SpatialAttention(nn.Module):
    """Every place weighted by a function of its mean and its largest channel (paper, eq. 2 and 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, H, W) -> the same shape."""
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weight: Tensor = self.conv(seen).sigmoid()
        return x * weight


class SpatialAttentionMaskHead(MaskHead):
    """Mask R-CNN's head with spatial attention behind its convolutions (section 3.2, figure 2)."""

    def __init__(self, channels: int, num_classes: int, config: MaskHeadConfig) -> None:
        super().__init__(channels, num_classes, config)
        self.convs.append(SpatialAttention())


def share_levels(boxes: Tensor, size: tuple[int, int], num_levels: int) -> Tensor:
    """Which level each box is cut from (section 3.2, eq. 1): the coarsest from half of the image's area on.

    Args:
        boxes: (N, 4) px; size: valid (height, width) of their image.

    Returns:
        (N,) int64 in 0..num_levels - 1; each step finer halves the share of the area.
    """
    share = size[0] * size[1] / box_ops.area(boxes).clamp(min=1e-6)
    return (num_levels - 1 - torch.log2(share)).ceil().clamp(0, num_levels - 1).to(torch.int64)


# The model ------------------------------------------------------------------------------------------------------------


class CenterMask(PointDetector[Raw, Detections], Detector[Raw]):
    """FCOS with a mask head and a MaskIoU head on its boxes; see
    :class:`~eachmask.models.detection.fcos.PointDetector`."""

    task = INSTANCES
    needs = frozenset({"masks"})
    config: Config

    def __init__(self, backbone: FPN, num_classes: int, config: Config | None = None) -> None:
        c = config or Config()
        super().__init__(backbone, num_classes, c)
        channels = backbone.channels[0]
        self.mask_head = SpatialAttentionMaskHead(channels, num_classes, c.mask_head)
        self.mask_iou_head = MaskIoUHead(channels, num_classes, c.mask_head.roi_size, c.mask_iou_head)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> what FCOS says; the heads of the RoIs have their say when learning and when selecting."""
        return self.detect(images)

    # Learning

    def head_losses(self, raw: Raw, matched: list[Tensor], targets: list[Instances]) -> dict[str, Tensor]:
        """Those of both heads on FCOS's own detections and the objects' boxes."""
        options = DecodeOptions(max_detections=self.config.roi.proposals_training)
        proposals = [kept.boxes for kept in self.keep(raw, options)]
        return self.roi_losses(raw, proposals, targets)

    def roi_losses(self, raw: Raw, proposals: list[Tensor], targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of the object's class's mask, and half the squared error of its IoU.

        Args:
            proposals: (N, 4) px of each image; the objects' boxes join them.
        """
        sampled = [self._sample(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
        boxes = [chosen for chosen, _ in sampled]
        if not sum(len(chosen) for chosen in boxes):
            nothing = zero_of(self.mask_head, self.mask_iou_head)
            return {"mask": nothing, "mask_iou": nothing}
        labels, gt, inside = [], [], []
        for target, (chosen, matched) in zip(targets, sampled, strict=True):
            if len(chosen):
                labels.append(target.labels.to(matched.device)[matched])
                gt.append(gt_masks(target.gt_masks, matched, chosen, 2 * self.config.mask_head.roi_size))
                inside.append(true_shares(target.gt_masks, matched, chosen))
        label, masks = torch.cat(labels), torch.cat(gt)
        rois = self.pool(raw.features, boxes, raw.sizes)
        logits = self.mask_head(rois, label).float()
        iou = self.mask_iou_head(rois, logits).float().gather(1, label[:, None]).squeeze(1)
        predicted = logits.detach() > self.config.mask_iou_head.threshold
        gt_iou = mask_iou_targets(predicted, masks, torch.cat(inside))
        learnt = gt_iou > 0
        error = 0.5 * F.mse_loss(iou[learnt], gt_iou[learnt]) if learnt.any() else iou.sum() * 0
        return {
            "mask": F.binary_cross_entropy_with_logits(logits, masks),
            "mask_iou": self.config.mask_iou_head.loss_weight * error,
        }

    def _sample(self, proposals: Tensor, target: Instances) -> tuple[Tensor, Tensor]:
        """The boxes to learn from (N, 4), and the object of each (N,)."""
        c = self.config.roi
        gt_boxes = target.boxes.to(proposals)
        single, _ = learnable(target, gt_boxes.device)
        boxes = torch.cat([proposals, gt_boxes[single]])
        matched = match(box_ops.iou(gt_boxes[single], boxes), c.fg_iou, c.fg_iou)
        positive = torch.nonzero(matched >= 0).squeeze(1)
        if len(positive) > c.batch_size:
            positive = positive[torch.randperm(len(positive), device=positive.device)[: c.batch_size]]
        return boxes[positive], single[matched[positive]]

    # Predicting

    def box_options(self, options: DecodeOptions) -> DecodeOptions:
        """As many are painted as the model would report by itself, even if the user wants fewer of them."""
        c, asked = self.config, options.score_threshold
        painted = replace(options, max_detections=max(options.limits(c)[2], c.max_detections))
        # A threshold is of the score that is reported: a predicted IoU may raise it.
        return painted if asked is None else replace(painted, score_threshold=min(asked, c.score_threshold))

    def select_heads(self, raw: Raw, kept: list[Kept], options: DecodeOptions) -> Detections:
        """FCOS's detections painted, and sorted anew by class score times predicted IoU."""
        asked, most = options.score_threshold, options.limits(self.config)[2]
        found, scores = self.paint(raw, kept, options)
        found, orders = found._replace(scores=tuple(x.clamp(0, 1) for x in scores)), []
        for values in found.scores:
            order = values.argsort(descending=True, stable=True)
            orders.append((order if asked is None else order[values[order] >= asked])[:most])
        return found.take(orders)

    @torch.no_grad()
    def paint(self, raw: Raw, kept: list[Kept], options: DecodeOptions) -> tuple[Detections, tuple[Tensor, ...]]:
        """Detections with FCOS's scores, in their order; and these times the predicted IoU of each mask (N,)."""
        found = detections(raw.sizes, kept)
        probabilities, ious = [], []
        groups = in_groups([one.boxes for one in kept], ROI_CHUNK_SIZE)
        for group, label in zip(groups, torch.cat(found.labels).split(ROI_CHUNK_SIZE), strict=True):
            rois = self.pool(raw.features, group, raw.sizes)
            logits = self.mask_head(rois, label).float()
            probabilities.append(logits.sigmoid())
            ious.append(self.mask_iou_head(rois, logits).float().gather(1, label[:, None]).squeeze(1))
        scores = zip(found.scores, found.per_image(torch.cat(ious)), strict=True)
        masks = found.per_image(torch.cat(probabilities)) if options.with_masks else None
        return found._replace(masks=masks), tuple(score * iou for score, iou in scores)

    def pool(self, features: Features, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """RoIAlign from the level that fits each box's share of its image: (R, C, 14, 14), images in order."""
        count, size = self.config.roi.levels, self.config.mask_head.roi_size
        levels = [share_levels(b, valid, count) for b, valid in zip(boxes, sizes, strict=True)]
        chosen = torch.cat(levels)
        rows, parts = [], []
        for i in range(count):
            some = [b[level == i] for b, level in zip(boxes, levels, strict=True)]
            rows.append(torch.nonzero(chosen == i).squeeze(1))
            level, stride = features.maps[i].float(), features.strides[i]
            parts.append(roi_align([level], some, size, [stride], sampling=0, aligned=True))
        return torch.cat(parts)[torch.argsort(torch.cat(rows))].to(features.maps[0].dtype)


# Target assignment ----------------------------------------------------------------------------------------------------


def gt_masks(masks: Masks, matched: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The true mask of each RoI (R, size, size), 0 or 1: polygons are filled at that size, other masks cut out.

    Args:
        masks: of the image's objects.
        matched: (R,) which object each RoI stands for.
        boxes: (R, 4) px.
    """
    if not isinstance(masks, Polygons):
        return (mask_targets(masks, matched, boxes, size, aligned=True) >= 0.5).to(boxes)
    outers, holes = [], []
    for index, box in zip(matched.tolist(), boxes.double().cpu().numpy(), strict=True):
        scale = size / np.maximum(box[2:] - box[:2], 0.1)
        outers.append([(ring - box[:2]) * scale for ring in masks.outers[index]])
        holes.append([(ring - box[:2]) * scale for ring in masks.holes[index]])
    return torch.from_numpy(Polygons(outers, holes, (size, size)).to_rle().decode()).to(boxes)


def true_shares(masks: Masks, matched: Tensor, boxes: Tensor) -> Tensor:
    """How much of its object lies in each RoI: (R,) 0..1; a polygon's part in whole pixels, the whole as it is.

    Args and shapes as for :func:`gt_masks`.
    """
    if not isinstance(masks, Polygons):
        return share_inside(masks, matched, boxes)
    result = boxes.new_zeros(len(boxes))
    for row, (index, box) in enumerate(zip(matched.tolist(), boxes.double().cpu().numpy(), strict=True)):
        width, height = np.maximum((box[2:] - box[:2]).astype(int), 1).tolist()
        outers, holes = ([ring - box[:2] for ring in rings[index]] for rings in (masks.outers, masks.holes))
        part = Polygons([outers], [holes], (height, width)).area()[0]
        whole = sum(map(_ring_area, outers)) - sum(map(_ring_area, holes))
        result[row] = min(float(part) / max(whole, 1e-7), 1.0)
    return result


def _ring_area(ring: NDArray[Any]) -> float:
    x, y = ring.T
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


# Variants -------------------------------------------------------------------------------------------------------------

_LITE_MASK_HEAD = MaskHeadConfig(convs=2, width=128)
LITE = Config(
    head=fcos.HeadConfig(depth=2),
    mask_head=_LITE_MASK_HEAD,
    mask_iou_head=MaskIoUHeadConfig(convs=2, width=128, loss_weight=1.0, threshold=0.0),
)
"""Narrow heads on a pyramid of 128 channels (section 4.3)."""
NARROW = Config(
    head=fcos.LIGHT,
    mask_head=_LITE_MASK_HEAD,
    mask_iou_head=MaskIoUHeadConfig(convs=2, width=64, layer_width=256, loss_weight=1.0, threshold=0.0),
)
"""Narrower heads still."""


def centermask_r50_fpn(num_classes: int = 80, **config: Any) -> CenterMask:
    """ResNet-50 with strides where Caffe's models have them: the authors' ``centermask_R_50_FPN_ms_3x``."""
    return CenterMask(p3_to_p7(ResNet("resnet50", stride_first=True)), num_classes, changed(Config(), config))


def centermask_v39_fpn(num_classes: int = 80, **config: Any) -> CenterMask:
    """VoVNetV2-39: the authors' ``centermask_V_39_eSE_FPN_ms_3x``."""
    return CenterMask(p3_to_p7(VoVNet("ese_vovnet39b")), num_classes, changed(Config(), config))


def centermask_lite_v39_fpn(num_classes: int = 80, **config: Any) -> CenterMask:
    """VoVNetV2-39 and narrow heads: the authors' ``centermask_lite_V_39_eSE_FPN_ms_4x``."""
    return CenterMask(p3_to_p7(VoVNet("ese_vovnet39b"), 128), num_classes, changed(LITE, config))


def centermask_lite0_fpn(num_classes: int = 80, **config: Any) -> CenterMask:
    """EfficientNet-Lite0 and narrower heads still, for CPUs."""
    return CenterMask(p3_to_p7(Timm("tf_efficientnet_lite0"), 128), num_classes, changed(NARROW, config))
