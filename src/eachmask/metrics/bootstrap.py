"""How sure is an AP of so few images? Confidence intervals by drawing the images anew (Efron, 1979).

Images are resampled with replacement, their detections and objects with them: an image's objects are not
independent of one another, images are. Two models are compared on the *same* draws, so that what is hard for
both cancels out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.average_precision import class_precision
from eachmask.metrics.coco_matches import Matches


@dataclass(frozen=True)
class Interval:
    """A number and where it would likely be on other images of the kind."""

    value: float
    low: float
    high: float
    confidence: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        """For a difference: would another sample of images agree on its sign?"""
        return self.low > 0 or self.high < 0


def draws(num_images: int, num: int, seed: int = 0) -> NDArray[np.float64]:
    """(num, num_images) how often each image is in each resample."""
    generator = np.random.default_rng(seed)
    chances = np.full(num_images, 1 / max(num_images, 1))
    return generator.multinomial(num_images, chances, size=num).astype(float)


def ap_of_draws(matches: Matches, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(num, 2): AP and AP50 of each resample, NaN where it holds no object."""
    classes = [matches.of_class(k) for k in range(matches.num_classes)]
    classes = [one for one in classes if (~one.object_ignored[0]).any()]
    result = np.full((len(weights), 2), np.nan)
    for i, weight in enumerate(weights):
        found = [class_precision(one, weights=weight) for one in classes]
        ap = [pair[0] for pair in found if pair is not None]
        if ap:
            result[i] = np.mean([a.mean() for a in ap]), np.mean([a[0] for a in ap])
    return result


def intervals(matches: Matches, num: int = 200, seed: int = 0, confidence: float = 0.95) -> dict[str, Interval]:
    """``ap`` and ``ap50`` with percentile intervals over images."""
    value = ap_of_draws(matches, np.ones((1, matches.num_images)))[0]
    return _intervals(value, ap_of_draws(matches, draws(matches.num_images, num, seed)), confidence)


def difference(
    matches: Matches, others: Matches, num: int = 200, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """``ap`` and ``ap50`` of the first minus those of the second, on the same draws of images.

    Raises:
        ValueError: not of the same number of images.
    """
    if matches.num_images != others.num_images:
        raise ValueError(f"{matches.num_images} images against {others.num_images}: not the same data")
    one = np.ones((1, matches.num_images))
    weights = draws(matches.num_images, num, seed)
    value = ap_of_draws(matches, one)[0] - ap_of_draws(others, one)[0]
    return _intervals(value, ap_of_draws(matches, weights) - ap_of_draws(others, weights), confidence)


def _intervals(value: NDArray[np.float64], resampled: NDArray[np.float64], confidence: float) -> dict[str, Interval]:
    resampled = resampled[~np.isnan(resampled).any(1)]
    rest = (1 - confidence) / 2
    ends = np.quantile(resampled, [rest, 1 - rest], axis=0) if len(resampled) else np.full((2, 2), np.nan)
    return {
        name: Interval(float(value[i]), float(ends[0, i]), float(ends[1, i]), confidence)
        for i, name in enumerate(("ap", "ap50"))
    }
