"""Boundary F: whether outlines lie where they should, which IoU hardly sees on large regions.

Csurka, Larlus, Perronnin: "What is a good evaluation measure for semantic segmentation?", BMVC 2013. Of each class and
image: precision is the share of its predicted outline that lies within a distance of the true one, recall the share of
the true one that lies within it of the predicted one, F their harmonic mean; 0 where only one of the two has the class.
Averaged over the images in which the class is, or is predicted, and then over classes.

The paper does not say what becomes of pixels that do not count, and VOC draws 5 px of them around every object, so that
a perfect outline lies in them. Here the predicted outline is not judged in them and not wrong along them. An outline is
due along them only where they are a seam, another class being not farther than twice the distance, and then it is right
anywhere in the seam.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures import SemanticMap

TOLERANCE = 0.0075
"""Of the image's diagonal, as in the paper."""


def boundary_f(pairs: Iterable[tuple[SemanticMap, SemanticMap]], num_classes: int) -> NDArray[np.float64]:
    """(K,) boundary F of each class in 0..1; NaN for a class that is nowhere.

    Args:
        pairs: (prediction, target) of one image each.
    """
    total, count = np.zeros(num_classes), np.zeros(num_classes)
    for found, target in pairs:
        known = (target.labels != target.ignore).cpu().numpy()
        a, b = found.labels.cpu().numpy(), target.labels.cpu().numpy()
        reach = max(1, round(TOLERANCE * math.hypot(*target.image_size)))
        for label in {*np.unique(a[known]).tolist(), *np.unique(b[known]).tolist()}:
            if label < num_classes:
                total[label] += _f(a == label, b == label, known, reach)
                count[label] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W) the pixels of a region that touch another one; the image's own border is none."""
    values = inside.view(np.uint8)
    kernel = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    eroded = cv2.erode(values, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return np.asarray(inside & (eroded == 0))


def _f(found: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_], reach: int) -> float:
    if not found.any() or not true.any():
        return 0.0
    lines, edges = outline(found), outline(true)
    seam = _distance(known & ~true)
    due = edges & (seam <= 2 * reach)
    precision = _share(_distance(edges)[lines & known] <= reach)
    recall = _share(_distance(lines)[due] <= np.maximum(reach, seam[due]))
    return 2 * precision * recall / max(precision + recall, 1e-12)


def _share(right: NDArray[np.bool_]) -> float:
    """Of none all are right."""
    return float(right.mean()) if right.size else 1.0


def _distance(points: NDArray[np.bool_]) -> NDArray[np.floating]:
    """(H, W) px to the nearest of the points."""
    if not points.any():
        return np.full(points.shape, np.inf)
    return np.asarray(cv2.distanceTransform((~points).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
