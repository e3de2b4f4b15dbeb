"""Coverage: how well each true object is covered by the best of all predictions (Silberman et al., ECCV 2014).

Every object takes the prediction with the largest IoU, whether another object takes it too or not; false positives cost
nothing. Unweighted: every object counts the same; weighted: by its pixels. Pooled over all images, as Wang & Yuille
and Romera-Paredes & Torr (arXiv 1511.08250) read it; without classes and scores.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eachmask.structures import Masks


def coverage(pairs: Iterable[tuple[Masks, Masks]]) -> dict[str, float]:
    """``coverage`` and ``weighted_coverage``, 0..1; NaN without objects.

    Args:
        pairs: (predicted, true) masks of one image each.
    """
    best, weight = [np.zeros(0)], [np.zeros(0)]
    for predicted, true in pairs:
        best.append(predicted.iou(true).max(0, initial=0.0))
        weight.append(true.area().astype(float))
    values, areas = np.concatenate(best), np.concatenate(weight)
    if not len(values):
        return {"coverage": float("nan"), "weighted_coverage": float("nan")}
    return {"coverage": float(values.mean()), "weighted_coverage": float(values @ areas / max(areas.sum(), 1.0))}
