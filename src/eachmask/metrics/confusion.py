"""Which class is taken for which: detections and objects matched without looking at the class.

At one IoU threshold and one score threshold, by falling score, each detection takes the free object it overlaps most,
whatever the class. What stays free is counted against background. Crowd regions are no objects; a free detection
that lies mostly in one is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.coco_matches import mask_overlap
from eachmask.structures import Instances


def confusion_matrix(
    pairs: Iterable[tuple[Instances, Instances]], num_classes: int, iou: float = 0.5
) -> NDArray[np.int64]:
    """(K + 1, K + 1): row the true class, column the predicted one; the last of each is background.

    Args:
        pairs: (predictions, targets) of one image each, with masks and labels; low scores already removed.
        iou: least overlap of a pair.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for predictions, targets in pairs:
        if predictions.scores is not None:
            predictions = predictions[np.argsort(-predictions.scores.cpu().numpy(), kind="stable")]
        rows, columns = _outcomes(predictions, targets, num_classes, iou)
        np.add.at(matrix, (rows, columns), 1)
    return matrix


def _outcomes(predictions: Instances, targets: Instances, background: int, least: float) -> tuple[list[int], list[int]]:
    """True and predicted class of every pair, and of what has no partner."""
    found, true = predictions.labels.tolist(), targets.labels.tolist()
    crowd = targets.crowd.cpu().numpy()
    overlap = mask_overlap(predictions, targets)
    in_crowd = overlap[:, crowd].max(1, initial=0.0)
    free = overlap.copy()
    free[:, crowd] = 0.0
    taken = crowd.copy()
    rows, columns = [], []
    for i, label in enumerate(found):
        best = int(free[i].argmax()) if len(true) else -1
        if best >= 0 and free[i, best] >= least:
            rows.append(true[best])
            columns.append(label)
            free[:, best], taken[best] = 0.0, True
        elif in_crowd[i] < least:
            rows.append(background)
            columns.append(label)
    missed = [label for label, gone in zip(true, taken, strict=True) if not gone]
    return rows + missed, columns + [background] * len(missed)
