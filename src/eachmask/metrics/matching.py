"""TP / (TP + FP + FN) at an IoU threshold: how microscopy reports instance segmentation.

Every object is matched to at most one prediction, so that the number of pairs with IoU >= t is
largest; what is left over are false positives and false negatives. The measure has no confidence
and no class in it: it measures the masks that a user gets. The 2018 Data Science Bowl called the mean of it
over thresholds 0.5 ... 0.95 its score (Caicedo et al., Nature Methods 2019), StarDist's papers call
it "average precision" (Schmidt et al., MICCAI 2018, arXiv 1806.03535, section 3), Cellpose too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Instances, Masks
from eachmask.structures import boxes as box_ops

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


@dataclass(frozen=True)
class Counts:
    """Matched and unmatched objects at one IoU threshold; counts of images add up."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def score(self) -> float:
        """TP / (TP + FP + FN) in 0..1; 1 where there was nothing to find and nothing was found."""
        total = self.true_positives + self.false_positives + self.false_negatives
        return self.true_positives / total if total else 1.0

    @property
    def precision(self) -> float:
        """TP / (TP + FP); 1 where there was nothing to find and nothing was found, NaN where objects were missed."""
        found = self.true_positives + self.false_positives
        if found:
            return self.true_positives / found
        return float("nan") if self.false_negatives else 1.0

    @property
    def recall(self) -> float:
        """TP / (TP + FN): the denominator is the number of true objects; 1 without objects."""
        objects = self.true_positives + self.false_negatives
        return self.true_positives / objects if objects else 1.0


def count_in_image(found: Instances, targets: Instances, threshold: float) -> Counts:
    """Match one image's predictions to its objects by their masks, or by their boxes where either has no masks."""
    if found.masks is not None and targets.masks is not None:
        return count_matches(found.masks.iou(targets.masks), threshold)
    return count_matches(box_ops.iou(found.boxes, targets.boxes).numpy(), threshold)


def count_matches(iou: np.ndarray, threshold: float) -> Counts:
    """Match one image's predictions to its objects.

    Args:
        iou: (num_predictions, num_objects) float, 0..1.
        threshold: least IoU of a pair, above 0.

    Example (StarDist's definition on a worked matrix):
        >>> count_matches(np.array([[0.9, 0.0], [0.4, 0.6], [0.0, 0.5]]), 0.5)
        Counts(true_positives=2, false_positives=1, false_negatives=0)
    """
    num_predictions, num_objects = iou.shape
    matched = len(matched_pairs(iou, threshold)[0])
    return Counts(matched, num_predictions - matched, num_objects - matched)


def matched_pairs(iou: NDArray[np.floating], threshold: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(P,) predictions and (P,) their objects: as many pairs as can be, of those the largest sum of IoU.

    Args:
        iou, threshold: as :func:`count_matches`.

    >>> [side.tolist() for side in matched_pairs(np.array([[0.9, 0.0], [0.4, 0.6], [0.0, 0.5]]), 0.5)]
    [[0, 1], [0, 1]]
    """
    hit = iou >= threshold
    if not hit.any() or (threshold > 0.5 and (hit.sum(0) <= 1).all() and (hit.sum(1) <= 1).all()):
        rows, columns = hit.nonzero()  # masks that do not overlap one another pair off by themselves
        return rows, columns
    from scipy.optimize import linear_sum_assignment  # 10 MB that predicting can do without

    # Maximize first the number of pairs, then their IoU.
    rows, columns = linear_sum_assignment(hit + iou / (2 * min(iou.shape)), maximize=True)
    paired = hit[rows, columns]
    return rows[paired], columns[paired]


def matching_scores(
    pairs: Iterable[tuple[Masks, Masks]], thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, Counts]:
    """Counts per IoU threshold, pooled over images (every object weighs the same).

    Args:
        pairs: (predicted, true) masks of one image each; scores are not looked at, so filter the
            predictions first.
    """
    totals = dict.fromkeys(thresholds, Counts())
    for predicted, true in pairs:
        iou = predicted.iou(true)
        for threshold in thresholds:
            totals[threshold] += count_matches(iou, threshold)
    return totals
