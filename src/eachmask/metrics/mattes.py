"""Errors of mattes (Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009).

Sums of absolute differences say little of what people see: the gradient error counts edges that are too soft or too
hard, the connectivity error pieces that hang in the air. The flicker of a video is dtSSD (Erofeev et al., BMVC 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Matte

Alpha = NDArray[np.float64]
"""(H, W) in 0..1."""

SIGMA = 1.4
"""Width of the Gaussian whose derivative finds edges, px."""
STEP, TOLERANCE = 0.1, 0.15
"""Between the levels at which connectivity is looked at; a smaller distance from the level counts as none."""


def matte_errors(predictions: Sequence[Matte], targets: Sequence[Matte]) -> dict[str, float]:
    """Means over images.

    Returns:
        ``sad``: sum of absolute differences; ``mad`` and ``mse``: mean absolute and mean squared difference of a pixel,
        0..1; ``grad`` and ``conn``: see :func:`gradient_error` and :func:`connectivity_error`. Sums are in thousands.

    Raises:
        ValueError: the two lists differ in length, or a pair in size.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} images")
    sums = dict.fromkeys(("sad", "mad", "mse", "grad", "conn"), 0.0)
    for found, target in zip(predictions, targets, strict=True):
        if found.image_size != target.image_size:
            raise ValueError(f"a matte on {found.image_size} for an image of {target.image_size}")
        for name, value in alpha_errors(_alpha(found), _alpha(target)).items():
            sums[name] += value
    return {name: value / max(len(targets), 1) for name, value in sums.items()}


def alpha_errors(found: Alpha, target: Alpha) -> dict[str, float]:
    """Of one image, see :func:`matte_errors`."""
    difference = np.abs(found - target)
    return {
        "sad": float(difference.sum()) / 1000,
        "mad": float(difference.mean()),
        "mse": float(np.square(difference).mean()),
        "grad": gradient_error(found, target),
        "conn": connectivity_error(found, target),
    }


def gradient_error(found: Alpha, target: Alpha, sigma: float = SIGMA) -> float:
    """Sum of squared differences of gradient magnitudes, in thousands; both mattes are stretched to 0..1 first."""
    return float(np.square(_edges(target, sigma) - _edges(found, sigma)).sum()) / 1000


def connectivity_error(found: Alpha, target: Alpha) -> float:
    """Sum over pixels of the difference in connectedness to the largest piece that both have, in thousands.

    A pixel is connected up to the highest level at which it still hangs together (4-neighborhood) with that piece; how
    far its opacity lies above that level is what it lacks, where this is not below 0.15.
    """
    levels = np.arange(0, 1 + STEP, STEP)
    reached = np.full(target.shape, -1.0)
    for below, level in zip(levels[:-1], levels[1:], strict=True):
        common = ((found >= level) & (target >= level)).astype(np.uint8)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(common, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest = numbers == areas.argmax() + 1 if len(areas) else np.zeros(target.shape, bool)
        reached[(reached == -1) & ~largest] = below
    reached[reached == -1] = 1
    return float(np.abs(_connected(target, reached) - _connected(found, reached)).sum()) / 1000


def flicker(found: Sequence[Alpha], targets: Sequence[Alpha]) -> float:
    """dtSSD of two successive frames: root of the mean squared difference between the two changes.

    Args:
        found, targets: the earlier and the later frame.
    """
    change = (found[1] - found[0]) - (targets[1] - targets[0])
    return float(np.sqrt(np.square(change).mean()))


def mean_flicker(predictions: Iterable[Matte], targets: Iterable[Matte]) -> float:
    """The mean :func:`flicker` of a video's successive frames; 0 where there are fewer than two.

    >>> import torch
    >>> frames = [Matte(torch.full((4, 4), value)) for value in (0.0, 1.0, 0.0)]
    >>> mean_flicker(frames, frames), mean_flicker(frames, frames[:1] * 3)
    (0.0, 1.0)
    """
    pairs = pairwise((_alpha(found), _alpha(target)) for found, target in zip(predictions, targets, strict=True))
    values = [flicker((before[0], after[0]), (before[1], after[1])) for before, after in pairs]
    return sum(values) / max(len(values), 1)


@cache
def edge_filter(sigma: float) -> Alpha:
    """(n, n) the derivative of a Gaussian along x, of unit energy, cut off where it is below a hundredth."""
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    at = np.arange(-half, half + 1, dtype=np.float64)
    bell = np.exp(-(at**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    values = bell[:, None] * (-at * bell / sigma**2)
    return np.asarray(values / np.sqrt(np.square(values).sum()))


def _edges(alpha: Alpha, sigma: float) -> Alpha:
    """(H, W) magnitude of the gradient."""
    lowest, highest = float(alpha.min()), float(alpha.max())
    full = (alpha - lowest) / (highest - lowest) if highest > lowest else np.zeros_like(alpha)
    kernel = edge_filter(sigma)
    along = [cv2.filter2D(full, -1, k, borderType=cv2.BORDER_REPLICATE) for k in (kernel, kernel.T)]
    return np.asarray(np.hypot(*along))


def _connected(alpha: Alpha, reached: Alpha) -> Alpha:
    lacking = alpha - reached
    return np.asarray(1 - lacking * (lacking >= TOLERANCE))


def _alpha(matte: Matte) -> Alpha:
    return matte.alpha.double().cpu().numpy()
