"""Suppression: of several detections of one object, keep one."""

from __future__ import annotations

import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Greedy suppression among boxes of the same label.

    Args:
        boxes: (N, 4); scores: (N,); labels: (N,) int.
        threshold: boxes with a higher IoU to a better one go.

    Returns:
        indices of the kept, best first.
    """
    keep: Tensor = torchvision.ops.batched_nms(boxes, scores, labels, threshold)
    return keep
