"""Random walker: an unmarked pixel is the object if a walk that starts there most likely meets the object's marks
first.

Grady: "Random Walks for Image Segmentation", TPAMI 2006, as scikit-image solves it.

The idea: steps between unlike neighbors are unlikely, so that walks stay on their side of an edge. Nobody walks: the
probabilities are the solution of one sparse linear system, L x = -B m, the same as the potentials in a net of
resistors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.models.promptable.without_learning import OBJECT, UNKNOWN, BrushConfig, Classic, Marks


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    brush: BrushConfig = BrushConfig(max_side=256)
    beta: float = 130.0
    """How much an edge stops a walk: step weights are exp(-beta d^2 / (10 std))."""
    tolerance: float = 1e-3
    """Of the solver."""


class RandomWalker(Classic):
    """Grady's probabilities of two kinds of marks."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.brush)
        self.config = config

    def cut(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[Any]:
        seeds: NDArray[np.int64] = np.where(marks.seeds == UNKNOWN, 0, np.where(marks.seeds == OBJECT, 2, 1))
        if not (seeds == 2).any():  # a box alone: its middle is the object
            seeds[_core(marks.probable) & (seeds == 0)] = 2
        if len(np.unique(seeds[seeds > 0])) < 2 or not (seeds == 0).any():
            return np.asarray(seeds == 2, bool)
        return np.asarray(probabilities(image / 255.0, seeds, self.config.beta, self.config.tolerance)[1])


def probabilities(
    image: NDArray[np.floating[Any]], seeds: NDArray[Any], beta: float, tolerance: float = 1e-3
) -> NDArray[np.float64]:
    """(K, H, W): how likely a walk from each pixel first meets each of K kinds of seeds.

    Args:
        image: (H, W, C); seeds: (H, W) whole, 0 where nothing is marked, else 1..K, each of which occurs.
    """
    from skimage.segmentation import random_walker

    if not np.ptp(image):  # scikit-image divides by the deviation
        image = image + 1e-6 * (np.indices(seeds.shape).sum(0) % 2)[..., None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional solvers
        found = random_walker(
            image, seeds, beta=beta, mode="cg_j", tol=tolerance, return_full_prob=True, channel_axis=-1
        )
    return np.asarray(found)


def _core(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The middle ninth of a region's box."""
    result = np.zeros_like(region)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if len(rows):
        (y1, y2), (x1, x2) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
        dy, dx = (y2 - y1) // 3, (x2 - x1) // 3
        result[y1 + dy : max(y2 - dy, y1 + dy + 1), x1 + dx : max(x2 - dx, x1 + dx + 1)] = True
    return result & region


def build(config: Config) -> RandomWalker:
    """With these settings."""
    return RandomWalker(config)
