"""Suppression: of several detections of one object, keep one (or let the others fade).

Greedy suppression looks at one detection after the other. Fast NMS and Matrix NMS ask all pairs at once and suppress in
parallel; Soft-NMS lowers scores instead of removing. The last two take a matrix of mask IoU.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.structures import boxes as box_ops

Decay = Literal["gaussian", "linear"]
REPEATED, HELD = 0.5, 0.9
"""IoU above which a mask says a better one again, and the share of it that lies in one of which it is a part."""
PAIR_CHUNK_SIZE = 1 << 20
"""Pairs of boxes that Fast NMS compares at a time, in some 40 bytes each."""


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Greedy suppression among boxes of the same label.

    Args:
        boxes: (N, 4); scores: (N,); labels: (N,) int.
        threshold: boxes with a higher IoU to a better one go.

    Returns:
        indices of the kept, best first.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
    >>> nms(boxes, torch.tensor([0.6, 0.9, 0.8]), torch.tensor([0, 0, 0]), 0.5).tolist()
    [1, 2]
    """
    keep: Tensor = torchvision().ops.batched_nms(boxes, scores, labels, threshold)
    return keep


def mask_iou(masks: Tensor, labels: Tensor, pixels_at_once: int = 1 << 22) -> Tensor:
    """IoU of masks of the same label, for the suppressions below; 0 for all other pairs.

    One matrix product per label, in which masks become float only a group of columns at a time.

    Args:
        masks: (N, H, W) bool; labels: (N,).
        pixels_at_once: so many are float together.

    Returns:
        (N, N) float32, 0 also where both masks are empty.

    >>> masks = torch.tensor([[[1, 1, 0]], [[1, 0, 0]]], dtype=torch.bool)
    >>> mask_iou(masks, torch.tensor([0, 0])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    flat = masks.flatten(1)
    result = torch.zeros(len(masks), len(masks), device=masks.device)
    for label in labels.unique():
        rows = torch.nonzero(labels == label).squeeze(1)
        common = torch.zeros(len(rows), len(rows), device=masks.device)
        for part in flat.split(max(1, pixels_at_once // len(rows)), dim=1):
            values = part[rows].float()
            common += values @ values.T
        area = common.diagonal()
        union = area[:, None] + area[None] - common
        result[rows[:, None], rows] = common / union.clamp(min=1)
    return result


def mask_nms(iou: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy suppression by any IoU, such as that of masks.

    Args:
        iou: (N, N); 0 for pairs that must not suppress each other (other labels).
        scores: (N,).

    Returns:
        indices of the kept, best first.

    >>> iou = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.6], [0.0, 0.6, 1.0]])
    >>> mask_nms(iou, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()  # the second is gone before the third comes
    [0, 2]
    """
    order = torch.argsort(scores, descending=True, stable=True)
    over = (iou > threshold)[order][:, order].cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~over[i, i + 1 :]
    return order[alive.to(order.device)]


def lower_repeats(iou: Tensor, areas: Tensor, scores: Tensor, repeat: float, part: float) -> Tensor:
    """Scores of what says again what a better mask says: times ``repeat`` for each better one with an IoU above
    :data:`REPEATED`, times ``part`` for each other better one that holds more than :data:`HELD` of it.

    Our own; a whole that holds a better part keeps its score.

    Args:
        iou: (N, N) of masks, 0 for pairs that must not meet (other labels); areas: (N,) px or cells.
        scores: (N,).
        repeat, part: 0..1.

    >>> masks = torch.tensor([[[1, 1, 1, 1]], [[1, 1, 1, 0]], [[1, 0, 0, 0]]], dtype=torch.bool)
    >>> iou, areas = mask_iou(masks, torch.zeros(3)), masks.flatten(1).sum(1)
    >>> lower_repeats(iou, areas, torch.tensor([0.5, 0.25, 1.0]), 0.5, 0.75).tolist()  # the last one is the best
    [0.5, 0.125, 1.0]
    >>> lower_repeats(iou, areas, torch.tensor([0.5, 0.25, 0.125]), 0.5, 0.75).tolist()
    [0.5, 0.125, 0.0703125]
    """
    order = torch.argsort(scores, descending=True, stable=True)
    iou, area = iou[order][:, order].triu(diagonal=1), areas[order].to(iou)
    common = (iou / (1 + iou) * (area[:, None] + area)).round()  # whole cells again
    again = iou > REPEATED
    within = ~again & (common > HELD * area)
    lowered = torch.empty_like(scores)
    lowered[order] = scores[order] * repeat ** again.sum(0) * part ** within.sum(0)
    return lowered


def soft_nms(
    iou: Tensor,
    scores: Tensor,
    sigma: float = 0.5,
    threshold: float = 0.3,
    min_score: float = 0.001,
    decay: Decay = "gaussian",
) -> tuple[Tensor, Tensor]:
    """Detections lose score by their overlap with better ones (Bodla et al., arXiv 1704.04503, figure 2).

    Args:
        iou: (N, N) of boxes or masks; 0 for pairs that must not meet (other labels).
        scores: (N,).
        sigma: of the Gaussian exp(-iou^2 / sigma) (eq. 3).
        threshold: from this IoU on the linear form multiplies by 1 - iou (eq. 2).
        min_score: what falls below is dropped.

    Returns:
        indices of the kept, best first, and their new scores.

    >>> iou = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> index, faded = soft_nms(iou, torch.tensor([0.9, 0.8, 0.5]), decay="linear")
    >>> index.tolist(), [round(score, 2) for score in faded.tolist()]
    ([0, 2, 1], [0.9, 0.5, 0.4])
    """
    factor = torch.exp(-(iou**2) / sigma) if decay == "gaussian" else torch.where(iou > threshold, 1 - iou, 1.0)
    current = scores.clone()
    waiting = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    kept: list[Tensor] = []
    for _ in range(len(scores)):
        best = torch.where(waiting, current, -1.0).argmax()
        if current[best] < min_score:
            break
        kept.append(best)
        waiting[best] = False
        current = torch.where(waiting, current * factor[best], current)
    index = torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64, device=scores.device)
    return index, current[index]


def fast_nms(iou: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppressed is what overlaps *any* better detection, suppressed or not (Bolya et al., YOLACT, section 3.3).

    One matrix and no loop; a little more is removed than by greedy suppression.

    Args:
        iou: (N, N), 0 between different labels; scores: (N,).

    Returns:
        indices of the kept, best first.

    >>> iou = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.6], [0.0, 0.6, 1.0]])
    >>> fast_nms(iou, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    [0]
    """
    order = torch.argsort(scores, descending=True, stable=True)
    upper = iou[order][:, order].triu(diagonal=1)
    worst = upper.max(dim=0).values if len(order) else upper.new_zeros(0)
    return order[worst <= threshold]


def fast_nms_of_classes(
    boxes: Tensor, scores: Tensor, threshold: float, per_class: int, score_threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """Fast NMS of all classes in one go: what overlaps any better box of its class goes.

    Args:
        boxes: (N, 4), shared by all classes; scores: (N, K).
        threshold: IoU from above which the worse one goes.
        per_class: best boxes of each class that take part.
        score_threshold: what scores this or less is not returned; None: everything that survives is.

    Returns:
        rows and labels of the survivors, class by class.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.7]])  # (N, K)
    >>> rows, labels = fast_nms_of_classes(boxes, scores, 0.5, per_class=100)
    >>> rows.tolist(), labels.tolist()
    ([0, 1], [0, 1])
    """
    classes = torch.arange(scores.shape[1], device=scores.device)
    per_class = min(per_class, len(scores))
    if score_threshold is not None:  # what is too weak to be returned suppresses only what is weaker still
        strong = scores > score_threshold
        classes = torch.nonzero(strong.any(dim=0)).squeeze(1)
        per_class = min(per_class, int(strong.sum(dim=0).max())) if len(classes) and len(scores) else 0
    if not per_class:
        return classes.new_zeros(0), classes.new_zeros(0)
    best, index = scores[:, classes].t().topk(per_class, dim=1)  # (K', n), sorted
    chunk = max(1, PAIR_CHUNK_SIZE // per_class**2)
    overlaps = [_largest_overlap(boxes[rows]) for rows in index.split(chunk)]
    kept = torch.cat(overlaps) <= threshold
    if score_threshold is not None:
        kept &= best > score_threshold
    row, column = torch.nonzero(kept, as_tuple=True)
    return index[row, column], classes[row]


def _largest_overlap(boxes: Tensor) -> Tensor:
    """(K, n, 4) boxes of K classes, best first -> (K, n) largest IoU of each with a better one of its class."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (high - low).clamp_(min=0).prod(-1)
    area = box_ops.area(boxes)
    union = area[:, :, None] + area[:, None] - common
    iou = torch.where(union > 0, common / union, 0.0)
    return iou.triu_(diagonal=1).max(dim=1).values


def matrix_nms(iou: Tensor, scores: Tensor, labels: Tensor, sigma: float = 2.0, decay: Decay = "gaussian") -> Tensor:
    """Scores lowered by all better detections at once (Wang et al., SOLOv2, arXiv 2003.10152, eq. 5).

    A better detection i that is itself covered by iou_i lowers j less: the decay of j is the least over i of
    f(iou_ij) / f(iou_i), f(x) = exp(-sigma x^2) or 1 - x.

    Args:
        iou: (N, N) of masks; scores: (N,); labels: (N,).

    Returns:
        (N,) new scores, in the order of the input.

    >>> iou = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> matrix_nms(iou, torch.tensor([0.8, 0.6]), torch.tensor([0, 0]), decay="linear").tolist()
    [0.800000011920929, 0.30000001192092896]
    """
    if not len(scores):
        return scores.clone()
    order = torch.argsort(scores, descending=True, stable=True)
    same = labels[order][:, None] == labels[order][None]
    upper = (iou[order][:, order] * same).triu(diagonal=1)
    covered = upper.max(dim=0).values[:, None]  # of each better detection, by those better still
    if decay == "gaussian":
        factor = torch.exp(-sigma * (upper**2 - covered**2))
    else:
        factor = (1 - upper) / (1 - covered).clamp(min=1e-6)
    # Pairs of other labels and the lower triangle have iou 0 and must not count as "covered".
    factor = torch.where(same.triu(diagonal=1), factor, torch.ones_like(factor))
    result = torch.empty_like(scores)
    result[order] = scores[order] * factor.min(dim=0).values.clamp(max=1.0)
    return result
