"""The suppression that a user asks for: hard, soft, fast or matrix, among boxes or by any other IoU.

``hard`` is the greedy one of nearly all detectors; ``soft`` lowers the scores of what overlaps better detections
(Soft-NMS); ``fast`` drops what overlaps any better detection, suppressed or not (YOLACT); ``matrix`` lowers all scores
at once (SOLOv2). The last three compare all pairs of a class, and soft and matrix look at no IoU threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eachmask.ops.nms import fast_nms, mask_nms, matrix_nms, nms, soft_nms
from eachmask.structures import boxes as box_ops
from eachmask.structures.decode import Limits

MIN_SCORE = 1e-3
"""What fades below is dropped in any case, as Soft-NMS has it."""


def suppress_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Suppression among boxes of the same label.

    Args:
        boxes: (N, 4); scores: (N,); labels: (N,) int.
        limits: of these, the score threshold is only looked at where scores change.

    Returns:
        indices of the kept, best first, and their scores after it.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
    >>> scores, labels = torch.tensor([0.6, 0.9, 0.8]), torch.tensor([0, 0, 0])
    >>> suppress_boxes(boxes, scores, labels, Limits(0.05, 0.5, 100))[0].tolist()
    [1, 2]
    >>> index, faded = suppress_boxes(boxes, scores, labels, Limits(0.05, 0.5, 100, "soft"))
    >>> index.tolist(), [round(score, 3) for score in faded.tolist()]
    ([1, 2, 0], [0.9, 0.8, 0.119])
    """
    if limits.suppression == "hard":
        index = nms(boxes, scores, labels, limits.nms_threshold)[: limits.max_detections]
        return index, scores[index]
    indices, faded = [labels.new_zeros(0)], [scores.new_zeros(0)]
    for label in labels.unique():  # classes do not meet, so that only the pairs of each are made
        rows = torch.nonzero(labels == label).squeeze(1)
        kept, new = suppress_by(box_ops.iou(boxes[rows], boxes[rows]), scores[rows], limits)
        indices.append(rows[kept])
        faded.append(new)
    index, scores = torch.cat(indices), torch.cat(faded)
    order = torch.argsort(scores, descending=True, stable=True)[: limits.max_detections]
    return index[order], scores[order]


def suppress_by(iou: Tensor, scores: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Suppression by any IoU, such as that of masks.

    Args:
        iou: (N, N); 0 for pairs that must not suppress each other (other labels).
        scores: (N,).

    Returns:
        indices of the kept, best first, and their scores after it.

    >>> iou = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> index, scores = suppress_by(iou, torch.tensor([0.5, 0.75]), Limits(0.05, 0.5, 100, "matrix"))
    >>> index.tolist(), [round(score, 3) for score in scores.tolist()]
    ([1, 0], [0.75, 0.099])
    """
    least = max(limits.score_threshold, MIN_SCORE)
    if limits.suppression == "soft":
        index, scores = soft_nms(iou, scores, min_score=least)
    elif limits.suppression == "matrix":
        scores = matrix_nms(iou, scores, torch.zeros_like(scores, dtype=torch.int64))
        index = torch.argsort(scores, descending=True, stable=True)
        index = index[scores[index] >= least]
        scores = scores[index]
    else:
        index = (fast_nms if limits.suppression == "fast" else mask_nms)(iou, scores, limits.nms_threshold)
        scores = scores[index]
    return index[: limits.max_detections], scores[: limits.max_detections]


def suppress_classes(
    boxes: Tensor, scores: Tensor, limits: Limits, per_class: int, score_threshold: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppression of boxes that all classes share.

    Args:
        boxes: (N, 4); scores: (N, K).
        per_class: best boxes of each class that take part.
        score_threshold: pairs of box and class that score this or less do not take part; None: all do.

    Returns:
        rows, labels and scores of the kept, best first.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    >>> scores = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    >>> rows, labels, kept = suppress_classes(boxes, scores, Limits(0.05, 0.5, 100), per_class=10)
    >>> rows.tolist(), labels.tolist(), kept.tolist()
    ([0, 1], [0, 1], [0.75, 0.5])
    """
    best, rows = scores.topk(min(per_class, len(scores)), dim=0)  # (n, K)
    place, label = torch.nonzero(best > (-1.0 if score_threshold is None else score_threshold), as_tuple=True)
    row = rows[place, label]
    index, faded = suppress_boxes(boxes[row], best[place, label], label, limits)
    return row[index], label[index], faded
