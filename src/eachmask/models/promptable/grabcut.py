"""GrabCut: a box around the object, and graph cuts in turn with new color models.

Rother, Kolmogorov, Blake: "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH 2004, as
OpenCV has it.

The idea: a box tells what is surely background. Colors of its inside are a first guess at the object's; a graph cut
corrects the labels, the labels correct the colors, and so on. Points and scribbles fix pixels for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.models.promptable.without_learning import BACKGROUND, OBJECT, BrushConfig, Classic, Marks


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    brush: BrushConfig = BrushConfig(max_side=640)
    rounds: int = 5
    """Cuts."""
    reach: float = 0.25
    """Without a box or a rough mask, what lies within this share of the longer side of a mark is probably the
    object."""


class GrabCut(Classic):
    """OpenCV's iterated graph cuts."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.brush)
        self.config = config

    def cut(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[np.bool_]:
        probable = marks.probable if marks.probable.any() else self._near(marks.seeds == OBJECT)
        labels = np.where(probable, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[marks.seeds == BACKGROUND] = cv2.GC_BGD
        labels[marks.seeds == OBJECT] = cv2.GC_FGD
        return iterated_cuts(image, labels, self.config.rounds)

    def _near(self, seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if not seeds.any():
            return seeds
        apart = cv2.distanceTransform((~seeds).astype(np.uint8), cv2.DIST_L2, 3)
        return np.asarray(apart <= self.config.reach * max(seeds.shape))


def iterated_cuts(image: NDArray[np.uint8], labels: NDArray[np.uint8], rounds: int) -> NDArray[np.bool_]:
    """(H, W): what is the object in the end.

    Args:
        image: (H, W, 3) RGB; labels: (H, W) of ``cv2.GC_BGD``, ``GC_FGD``, ``GC_PR_BGD`` and ``GC_PR_FGD``.
    """
    inside = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if inside.all() or not inside.any():  # OpenCV wants pixels of both
        return inside
    found: Any = labels.copy()
    colors: Any = np.zeros((2, 1, 65))  # its models
    bgr: Any = np.ascontiguousarray(image[..., ::-1])
    whole = (0, 0, 1, 1)  # not read
    cv2.setRNGSeed(0)
    cv2.grabCut(bgr, found, whole, colors[0], colors[1], rounds, cv2.GC_INIT_WITH_MASK)
    return np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD))


def build(config: Config) -> GrabCut:
    """With these settings."""
    return GrabCut(config)
