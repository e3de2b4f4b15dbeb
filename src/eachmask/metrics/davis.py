"""J and F of objects in a video, as the evaluation of DAVIS counts them.

Perazzi, Pont-Tuset, McWilliams, Van Gool, Gross, Sorkine-Hornung: "A Benchmark Dataset and Evaluation Methodology for
Video Object Segmentation", CVPR 2016; Pont-Tuset et al.: "The 2017 DAVIS Challenge on Video Object Segmentation",
arXiv 1704.00675; Caelles et al.: "The 2019 DAVIS Challenge on VOS", arXiv 1905.00737 (unsupervised, several objects).

J is the IoU of a mask and F the harmonic mean of precision and recall of its outline, within a distance of 0.8 % of the
image's diagonal. Of each object mean, recall (frames above one half) and decay (first quarter minus last) over the
frames; then the mean over objects; J&F is the mean of the two means. Objects are those of the first frame. Where it is
told which they are (semi-supervised), first and last frame do not count; where not, all do, the pixels that nobody
labeled do not, and results are assigned so that the mean of J and F is largest.

Kept as it is there: bins of the decay have edges of 8 bits, so that it is wrong from 256 frames on, or NaN.

Shapes: T frames of H x W px, N objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from eachmask.structures import UserError

TOLERANCE = 0.008
"""Of the image's diagonal: how far an outline may be off."""
MAX_PROPOSALS = 20
"""Objects that a result may have where nobody says which ones are meant."""
VOID = 255
"""The label of pixels that nobody labeled."""
Mask = NDArray[np.bool_]


class Scores(NamedTuple):
    """Of the objects of one sequence, by their numbers in the target from 1."""

    j: NDArray[np.float64]  # (N, T) 0..1
    f: NDArray[np.float64]  # (N, T) 0..1
    results: NDArray[np.int64]  # (N,) which label of the result each object was compared with


class Statistics(NamedTuple):
    """Of one measure of one object over the frames."""

    mean: float
    recall: float
    decay: float


def region_j(found: Mask, target: Mask) -> float:
    """IoU of two masks (H, W); 1 where both are empty."""
    union = np.count_nonzero(found | target)
    return np.count_nonzero(found & target) / union if union else 1.0


def contour_f(found: Mask, target: Mask, tolerance: float = TOLERANCE) -> float:
    """F of the outlines of two masks (H, W).

    Args:
        tolerance: share of the image's diagonal, or, from 1 on, px.
    """
    reach = radius(found.shape, tolerance)
    ours, theirs = contour(found), contour(target)
    num, true = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not num or not true:
        return float(num == true)
    precision = np.count_nonzero(ours & _grown(theirs, reach)) / num
    recall = np.count_nonzero(theirs & _grown(ours, reach)) / true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def radius(size: Sequence[int], tolerance: float = TOLERANCE) -> int:
    """Px that an outline may be off in an image of (height, width)."""
    return int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*size))


def contour(mask: Mask) -> Mask:
    """Pixels that differ from the next one to the right, below, or to the right below."""
    below, right = np.pad(mask, ((0, 1), (0, 0)), "edge")[1:], np.pad(mask, ((0, 0), (0, 1)), "edge")[:, 1:]
    corner = np.pad(mask, ((0, 1), (0, 1)), "edge")[1:, 1:]
    result: Mask = (mask != below) | (mask != right) | (mask != corner)
    return result


def _grown(mask: Mask, reach: int) -> Mask:
    side = np.arange(-reach, reach + 1)
    disk = (side[:, None] ** 2 + side**2 <= reach**2).astype(np.uint8)
    return cv2.dilate(mask.view(np.uint8), disk).astype(bool)


def statistics(values: NDArray[Any]) -> Statistics:
    """Mean, recall and decay of the values of one object in its frames (T,)."""
    values = np.asarray(values, np.float64)
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64) % 256
    first, last = (values[edges[i] : (edges[i + 1] + 1) % 256] for i in (0, 3))
    decay = _mean(first) - _mean(last)
    return Statistics(_mean(values), np.count_nonzero(values > 0.5) / max(len(values), 1), decay)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def semi_supervised(found: Iterable[NDArray[Any]], target: Iterable[NDArray[Any]]) -> Scores:
    """Scores of a sequence whose first frame was given; label k of the result is object k.

    Args:
        found, target: label maps (H, W) of all frames, also the first and the last one, which do not count. What
            nobody labeled is background.

    Raises:
        UserError: numbers or sizes of frames differ, none is left, or the result has an object that the first frame
            has not.
    """
    measured: list[tuple[list[float], list[float]]] = []
    num = None
    for ours, theirs in _frames(found, target):
        theirs = np.where(theirs == VOID, 0, theirs)
        num = int(theirs.max(initial=0)) if num is None else num
        if ours.max(initial=0) > num:
            raise UserError(f"the result has an object {ours.max()}, but the first frame has {num}")
        pairs = [(ours == k, theirs == k) for k in range(1, num + 1)]
        measured.append(([region_j(*pair) for pair in pairs], [contour_f(*pair) for pair in pairs]))
    if len(measured) < 3:
        raise UserError("a sequence needs three frames: the first and the last one do not count")
    j, f = (np.array([frame[part] for frame in measured[1:-1]]).reshape(-1, num or 0).T for part in (0, 1))
    return Scores(j, f, np.arange(1, len(j) + 1))


def unsupervised(
    found: Iterable[NDArray[Any]], target: Iterable[NDArray[Any]], by: Literal["both", "j", "f"] = "both"
) -> Scores:
    """Scores of a sequence of which nobody says what is meant; each object gets one label of the result.

    Args:
        found, target: label maps (H, W) of all frames; 255 in the target does not count.
        by: what the assignment makes as large as possible.

    Raises:
        UserError: numbers or sizes of frames differ, or the result has more than 20 objects.
    """
    measured: list[NDArray[np.float64]] = []
    num, last = None, 0
    for ours, theirs in _frames(found, target):
        known = theirs != VOID
        num = int(theirs[known].max(initial=0)) if num is None else num
        last = max(last, int(ours.max(initial=0)))
        if last > MAX_PROPOSALS:
            raise UserError(f"the result has an object {last}, but {MAX_PROPOSALS} are allowed")
        measured.append(_all_pairs(ours * known, theirs * known, num))
    if not measured:
        raise UserError("a sequence without frames cannot be measured")
    values = np.stack(measured, -1)[:, : max(last, num or 0)]  # 2, results, objects, T
    means = values.mean(-1)
    rows, columns = linear_sum_assignment({"both": means.mean(0), "j": means[0], "f": means[1]}[by], maximize=True)
    order = np.argsort(columns)
    j, f = values[:, rows[order], columns[order]]
    return Scores(j, f, rows[order] + 1)


def _all_pairs(ours: NDArray[Any], theirs: NDArray[Any], num: int) -> NDArray[np.float64]:
    """(2, most results, objects): J and F of every result with every object in one frame."""
    results = max(MAX_PROPOSALS, num)
    values = np.zeros((2, results, num))
    present = {int(k) for k in np.unique(ours)} - {0}
    for column in range(num):
        target = theirs == column + 1
        nothing = np.zeros_like(target)
        values[:, :, column] = np.array([[region_j(nothing, target)], [contour_f(nothing, target)]])
        for k in present:
            values[:, k - 1, column] = region_j(ours == k, target), contour_f(ours == k, target)
    return values


def _frames(found: Iterable[NDArray[Any]], target: Iterable[NDArray[Any]]) -> Iterable[tuple[NDArray[Any], ...]]:
    try:
        for number, (ours, theirs) in enumerate(zip(found, target, strict=True), start=1):
            if ours.shape != theirs.shape:
                raise UserError(f"frame {number} is {ours.shape} in the result and {theirs.shape} in the target")
            yield ours, theirs
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError("the result and the target have different numbers of frames") from None


def summary(sequences: Iterable[Scores]) -> dict[str, float]:
    """J&F-Mean, and J and F with -Mean, -Recall and -Decay: means over the objects of all sequences.

    Raises:
        UserError: there are no objects.
    """
    sequences = list(sequences)
    result: dict[str, float] = {}
    for name, part in (("J", 0), ("F", 1)):
        rows = [statistics(values) for scores in sequences for values in scores[part]]
        if not rows:
            raise UserError("the first frame has no objects: there is nothing to measure")
        for key, column in zip(("Mean", "Recall", "Decay"), zip(*rows, strict=True), strict=True):
            result[f"{name}-{key}"] = float(np.mean(column))
    return {"J&F-Mean": (result["J-Mean"] + result["F-Mean"]) / 2} | result
