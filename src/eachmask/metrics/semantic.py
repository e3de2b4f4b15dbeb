"""Pixels of each class, whichever object they are of: intersection over union and Dice.

All masks of one class are united, in the prediction and in the ground truth (crowd regions too: their pixels are of the
class), and the counts are pooled over all images before dividing, as PASCAL VOC does (Everingham et al., IJCV
2015). An instance segmentation has no mask for background, so background is no class here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Instances, Masks


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of K classes, pooled over images; (K,) int64 each."""

    common: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) in 0..1; NaN for a class that is nowhere."""
        return _ratio(self.common, self.predicted + self.true - self.common)

    @property
    def dice(self) -> NDArray[np.float64]:
        """(K,) 2 x common / (predicted + true); NaN for a class that is nowhere."""
        return _ratio(2 * self.common, self.predicted + self.true)


def pixel_counts(pairs: Iterable[tuple[Instances, Instances]], num_classes: int) -> PixelCounts:
    """Count the pixels of each class.

    Args:
        pairs: (predictions, targets) of one image each, with masks and labels.
        num_classes: labels are below it; 1 with labels of zero joins all objects.
    """
    common, predicted, true = (np.zeros(num_classes, np.int64) for _ in range(3))
    for found, target in pairs:
        mine, theirs = found.labels.cpu().numpy(), target.labels.cpu().numpy()
        for label in {*mine.tolist(), *theirs.tolist()}:
            assert found.masks is not None and target.masks is not None
            a: Masks = found.masks[mine == label].union()
            b: Masks = target.masks[theirs == label].union()
            common[label] += a.intersection(b)[0, 0]
            predicted[label] += a.area()[0]
            true[label] += b.area()[0]
    return PixelCounts(common, predicted, true)


def mean_over_present(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
