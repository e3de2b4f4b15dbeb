"""Semantic segmentation: the confusion of all pixels and what follows from it (Long et al., arXiv 1411.4038, sec. 5).

Counts are pooled over all images before dividing, as PASCAL VOC and Cityscapes do. Pixels whose target is ``ignore`` do
not count; predictions of no class count as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.semantic import PixelCounts, mean_over_present
from eachmask.structures import SemanticMap


def confusion(predictions: Sequence[SemanticMap], targets: Sequence[SemanticMap]) -> NDArray[np.int64]:
    """(K, K + 1) pixels: row = true class, column = predicted class, the last one no class.

    Raises:
        ValueError: the two lists differ in length, or a pair in size.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} images")
    num = max(len(target.categories) or int(target.counts().numel()) for target in targets)
    total = np.zeros((num, num + 1), np.int64)
    for found, target in zip(predictions, targets, strict=True):
        if found.image_size != target.image_size:
            raise ValueError(f"a prediction on {found.image_size} for an image of {target.image_size}")
        known = target.labels != target.ignore
        column = found.labels[known].long().clamp(max=num)
        cell = target.labels[known].long() * (num + 1) + column
        total += np.bincount(cell.cpu().numpy(), minlength=total.size).reshape(total.shape)
    return total


def pixel_counts(matrix: NDArray[np.int64]) -> PixelCounts:
    """What each class has in common with its prediction; ``.iou`` and ``.dice`` are (K,)."""
    common = np.diagonal(matrix)
    return PixelCounts(common, matrix[:, :-1].sum(axis=0), matrix.sum(axis=1))


def numbers(matrix: NDArray[np.int64]) -> dict[str, float]:
    """Mean IoU and Dice over the classes that are there, frequency-weighted IoU, pixel and mean class accuracy.

    >>> import numpy as np
    >>> numbers(np.array([[3, 1, 0], [0, 4, 0]]))["miou"]
    0.775
    """
    counts = pixel_counts(matrix)
    true, all_pixels = counts.true, max(int(matrix.sum()), 1)
    present = true > 0
    weighted = float((true[present] * counts.iou[present]).sum() / all_pixels)
    accuracy = np.where(present, counts.common / np.maximum(true, 1), np.nan)
    return {
        "miou": mean_over_present(counts.iou),
        "dice": mean_over_present(counts.dice),
        "fwiou": weighted,
        "pixel_accuracy": float(counts.common.sum() / all_pixels),
        "class_accuracy": mean_over_present(accuracy),
    }
