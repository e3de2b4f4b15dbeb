"""How leaves are scored: symmetric best Dice, difference in count, Dice of the foreground.

Scharr et al., MVA 2016 (the CVPPP challenges). Per image, without classes or scores, and averaged over images. Crowd
regions are left to the caller to remove.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Masks


def best_dice(overlaps: NDArray[np.float64]) -> float:
    """Mean over the rows of the best Dice with any column; 0 where only one side has masks, 1 where none has.

    Args:
        overlaps: (N, M) Dice, 0..1.
    """
    if not overlaps.size:
        return 1.0 if overlaps.shape == (0, 0) else 0.0
    return float(overlaps.max(1).mean())


def dice(masks: Masks, others: Masks) -> NDArray[np.float64]:
    """(N, M) 2 x common / (area + area)."""
    iou = masks.iou(others)
    return 2 * iou / (1 + iou)


def symmetric_best_dice(predicted: Masks, true: Masks) -> float:
    """SBD of one image: the smaller of the best Dice seen from either side, 0..1."""
    overlaps = dice(predicted, true)
    return min(best_dice(overlaps), best_dice(overlaps.T))


def foreground_dice(predicted: Masks, true: Masks) -> float:
    """Dice of all objects together, 0..1; 1 where neither side has any."""
    if not len(predicted) or not len(true):
        return float(len(predicted) == len(true))
    return float(dice(predicted.union(), true.union())[0, 0])


def counting(pairs: Iterable[tuple[Masks, Masks]]) -> dict[str, float]:
    """``sbd`` (0..1), ``dic`` and ``abs_dic`` (objects; predicted minus true) and ``fg_dice``, averaged over images.

    Args:
        pairs: (predicted, true) masks of one image each.
    """
    rows = [(symmetric_best_dice(a, b), len(a) - len(b), abs(len(a) - len(b)), foreground_dice(a, b)) for a, b in pairs]
    means = np.mean(rows, axis=0) if rows else np.full(4, np.nan)
    return {name: float(value) for name, value in zip(("sbd", "dic", "abs_dic", "fg_dice"), means, strict=True)}
