"""Does a score of 0.8 mean right in 8 of 10 cases? (Guo et al., ICML 2017, arXiv 1706.04599)

A detection is right where it is matched at an IoU of one half; detections on crowds are left out. Only precision is
looked at, so this says nothing about objects that were not found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.coco_matches import Matches


@dataclass(frozen=True)
class Calibration:
    """B bins of equal width over the score."""

    ece: float
    """Expected calibration error: gap of score and precision, averaged over detections; NaN without any."""
    largest_gap: float
    count: NDArray[np.int64]
    """(B,) detections in each bin; bin b is [b / B, (b + 1) / B), the last one closed."""
    mean_score: NDArray[np.float64]
    """(B,) NaN in an empty bin."""
    precision: NDArray[np.float64]
    """(B,) NaN in an empty bin."""


def calibration(matches: Matches, threshold: int = 0, bins: int = 10) -> Calibration:
    """Reliability of the scores.

    Args:
        threshold: index into ``IOUS``.
        bins: B.
    """
    counted = ~matches.ignored[0, threshold]
    score, hit = matches.score[counted].round(6), matches.matched[0, threshold][counted]  # 0.7 in 32 bits is below 0.7
    place = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    some = count > 0
    full = np.maximum(count, 1)
    mean_score = np.where(some, np.bincount(place, score, minlength=bins) / full, np.nan)
    precision = np.where(some, np.bincount(place, hit, minlength=bins) / full, np.nan)
    gap = np.abs(mean_score - precision)[some]
    if not len(gap):
        return Calibration(float("nan"), float("nan"), count, mean_score, precision)
    ece = float((gap * count[some]).sum() / count.sum())
    return Calibration(ece, float(gap.max()), count, mean_score, precision)
