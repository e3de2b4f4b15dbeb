"""How YOLACT learns: which anchor stands for what, and the four losses (Bolya et al., arXiv 1904.02689).

Shapes: as in :mod:`eachmask.models.instance.yolact`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.ops.coarse_masks import coarse_masks
from eachmask.ops.match import IGNORED, UNMATCHED, learnable, match, one_each
from eachmask.ops.prototypes import Assembled, assemble_objects
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops

if TYPE_CHECKING:
    from eachmask.models.instance.yolact import AnchorConfig, LossConfig

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Inverse of the standard deviations 0.1, 0.1, 0.2, 0.2 of the encoded boxes."""


def assign(anchors: Tensor, target: Instances, config: AnchorConfig) -> Tensor:
    """(N,) index of each anchor's object, UNMATCHED or IGNORED (section 4).

    Args:
        anchors: (N, 4) px.
    """
    gt_boxes = target.boxes.to(anchors)
    single, crowd = learnable(target, anchors.device)
    iou = box_ops.iou(gt_boxes[single], anchors)
    matched = match(iou, config.fg_iou, config.bg_iou)
    best = one_each(iou) if config.one_each else enumerate(iou.argmax(dim=1).tolist())
    for index, anchor in best:
        matched[anchor] = index
    matched = torch.where(matched >= 0, single[matched.clamp(min=0)], matched) if len(single) else matched
    if len(crowd):
        covered = box_ops.coverage(anchors, gt_boxes[crowd]).max(dim=1).values > config.crowd_overlap
        matched[covered & (matched == UNMATCHED)] = IGNORED
    return matched


def class_loss(logits: Tensor, matched: Tensor, targets: list[Instances], config: LossConfig) -> Tensor:
    """Summed cross-entropy of positives and of the hardest negatives, per image three to one.

    Args:
        logits: (B, N, K + 1); matched: (B, N).
    """
    labels = torch.full_like(matched, logits.shape[-1] - 1)
    for row, index, target in zip(labels, matched, targets, strict=True):
        positive = index >= 0
        row[positive] = target.labels.to(row.device)[index[positive]]
    error = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(matched)
    used = matched >= 0
    # A negative's error is how little it looks like background.
    hardness = torch.where(matched == UNMATCHED, error.detach(), -1.0)
    for image, ranked in enumerate(hardness):
        num_negative, num_positive = int((ranked >= 0).sum()), int(used[image].sum())
        num = min(config.negatives * num_positive, num_negative)
        if config.learn_empty and not num_positive:
            num = num_negative
        used[image, ranked.topk(num).indices] = True
    return error[used].sum() + logits.sum() * 0


def box_loss(deltas: Tensor, anchors: Tensor, matched: Tensor, targets: list[Instances]) -> Tensor:
    """Summed smooth L1 of the positives' boxes.

    Args:
        deltas: (B, N, 4); anchors: (N, 4) px; matched: (B, N).
    """
    total = deltas.sum() * 0
    for found, index, target in zip(deltas, matched, targets, strict=True):
        positive = torch.nonzero(index >= 0).squeeze(1)
        gt_deltas = box_ops.encode(target.boxes.to(anchors)[index[positive]], anchors[positive], BOX_WEIGHTS)
        total = total + F.smooth_l1_loss(found[positive], gt_deltas, reduction="sum")
    return total


def mask_loss(
    prototypes: Tensor,
    coefficients: Tensor,
    matched: Tensor,
    targets: list[Instances],
    batch_size: tuple[int, int],
    config: LossConfig,
) -> tuple[Tensor, list[Assembled]]:
    """Summed cross-entropy of the positives' masks, each cropped to its object's box and divided by its area.

    Args:
        prototypes: (B, P, h, w); coefficients: (B, N, P); matched: (B, N).
        batch_size: (height, width) px that the prototypes span.

    Returns:
        the loss, and what was compared, object by object, for those who want to score the masks.
    """
    total = (prototypes.sum() + coefficients.sum()) * 0
    compared = []
    for image, (index, target) in enumerate(zip(matched, targets, strict=True)):
        positive = torch.nonzero(index >= 0).squeeze(1)
        scale = max(len(positive) / config.masks_per_image, 1.0)
        if scale > 1:
            order = torch.randperm(len(positive), device=positive.device)
            positive = positive[order[: config.masks_per_image]]
        parts = prototypes[image], coefficients[image, positive], index[positive]
        for one in assemble_objects(*parts, target, batch_size):
            gt = one.gt.expand_as(one.probabilities)
            error = F.binary_cross_entropy(one.probabilities, gt, reduction="sum")
            total = total + error * (scale / one.area)
            compared.append(one)
    return total, compared


def semantic_loss(logits: Tensor, targets: list[Instances], batch_size: tuple[int, int], config: LossConfig) -> Tensor:
    """Cross-entropy of a map per class, on the finest level, in training only (section 3.4): summed over images.

    Cells in a crowd region do not count.

    Args:
        logits: (B, K, H, W), which span ``batch_size`` px.
    """
    num_classes, *grid = logits.shape[1:]
    total = logits.sum() * 0
    for found, target in zip(logits, targets, strict=True):
        if config.semantic_off_by_one and bool(target.crowd.all()):  # MMDetection, where there is no object
            continue
        gt, weight = np.zeros((num_classes, *grid), np.float32), np.ones(grid, np.float32)
        coarse = coarse_masks(target.gt_masks, batch_size, (grid[0], grid[1]))
        for one, label, crowd in zip(coarse, target.labels.tolist(), target.crowd.tolist(), strict=True):
            if crowd:
                one.paint(weight, 0)
            else:
                one.paint(gt[label - config.semantic_off_by_one], 1)
        error = F.binary_cross_entropy_with_logits(found, torch.from_numpy(gt).to(found), reduction="none")
        total = total + (error * torch.from_numpy(weight).to(found)).sum() / weight.size
    return total
