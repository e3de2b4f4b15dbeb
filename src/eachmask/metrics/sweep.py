"""The score threshold that a user has to choose: precision, recall and F1 at every one, per class.

COCO's matching goes by falling score, so raising the threshold only cuts its end off: one sort gives all thresholds.
A threshold that is fixed beforehand, at 0.7 or 0.85, is a point on this curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.coco_matches import Matches

Floats = NDArray[np.float64]
GRID = np.linspace(0.0, 1.0, 101).round(2)
"""Thresholds that curves are drawn at."""


@dataclass(frozen=True)
class Sweep:
    """Precision, recall and F1 at ``GRID``, (101,) each, and the threshold with the best F1."""

    precision: Floats
    """NaN where nothing is found."""
    recall: Floats
    f1: Floats
    best_threshold: float
    best_f1: float


def sweep(matches: Matches, label: int | None = None, threshold: int = 0) -> Sweep | None:
    """The curve of one class, or of all together; None where there is no object.

    Args:
        matches: from :func:`~eachmask.metrics.coco_matches.match`.
        label: the class; default is all objects pooled.
        threshold: index into ``IOUS``; 0 is an IoU of one half.
    """
    chosen = ~matches.ignored[0, threshold]
    objects = ~matches.object_ignored[0]
    if label is not None:
        chosen &= matches.label == label
        objects &= matches.object_label == label
    total = int(objects.sum())
    if not total:
        return None
    order = np.argsort(-matches.score[chosen], kind="stable")
    hit = matches.matched[0, threshold][chosen][order]
    score = matches.score[chosen][order].round(6)  # 0.7 kept in 32 bits is a little below 0.7
    right = np.concatenate([[0], np.cumsum(hit)])
    # number kept at each grid threshold: scores >= it
    kept = np.searchsorted(-score, -GRID, side="right")
    precision = np.where(kept > 0, right[kept] / np.maximum(kept, 1), np.nan)
    f1_all = 2 * right[1:] / (np.arange(1, len(score) + 1) + total)
    last_of_equals = np.append(score[1:] != score[:-1], True) if len(score) else np.zeros(0, bool)
    f1_all = np.where(last_of_equals, f1_all, -1.0)
    best = int(f1_all.argmax()) if len(score) else -1
    return Sweep(
        precision,
        right[kept] / total,
        2 * right[kept] / (kept + total),
        float(score[best]) if best >= 0 else 1.0,
        float(f1_all[best]) if best >= 0 else 0.0,
    )
