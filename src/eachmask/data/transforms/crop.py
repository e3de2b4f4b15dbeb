"""Windows of an image, scaled to a fixed size, with everything that is known about it.

Written once for whatever lies on an image, targets and what a user hands over alike. Objects are cut and scaled one by
one, as packed runs, so that those that overlap stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.sample import Sample
from eachmask.data.transforms.objects import S, mirrored, refined

PADDING = 0.5
"""Brightness of what lies outside the image: near the mean that preprocessing subtracts."""


@dataclass(frozen=True)
class LargeScaleJitter:
    """A random scale, then a random window of a fixed size (Ghiasi et al., CVPR 2021, arXiv 2012.07177, section 3).

    The image is scaled by ``scale`` times the factor at which it just fits the window; what is larger than the window
    is cropped at a random place. What is smaller stays so: the batch fills the window up, as it does when predicting,
    and models are told where each image ends.
    """

    size: tuple[int, int] = (512, 512)
    """(height, width) of the window, px."""
    scale: tuple[float, float] = (0.1, 2.0)
    """Range of the factor, log-uniform; the paper's strong jitter is 0.1 to 2, its weak one 0.8 to 1.25."""
    aspect: float = 0.0
    """Largest absolute log of the factor by which width changes relative to height."""

    def __call__(self, sample: Sample[S], rng: np.random.Generator) -> Sample[S]:
        """Draw one window.

        Args:
            sample: image (H, W, 3) of any type.
            rng: the only source of chance.
        """
        height, width = sample.image.shape[:2]
        fit = min(self.size[0] / height, self.size[1] / width)
        factor = fit * float(np.exp(rng.uniform(*np.log(self.scale))))
        stretch = float(np.exp(rng.uniform(-self.aspect, self.aspect) / 2))
        scaled = (max(1, round(height * factor / stretch)), max(1, round(width * factor * stretch)))
        window = [min(whole, most) for whole, most in zip(scaled, self.size, strict=True)]
        place = [int(rng.integers(0, whole - part + 1)) for whole, part in zip(scaled, window, strict=True)]
        cropped = cut(sample, scaled, (place[1], place[0], place[1] + window[1], place[0] + window[0]))
        return replace(cropped, canvas=self.size)


@dataclass(frozen=True)
class Flip:
    """Mirrored left to right, with a chance.

    ``keypoint_pairs`` are indices of keypoints that change their names in a mirror (left and right eye); None: those
    that the categories name so.
    """

    chance: float = 0.5
    keypoint_pairs: tuple[tuple[int, int], ...] | None = None

    def __call__(self, sample: Sample[S], rng: np.random.Generator) -> Sample[S]:
        """Draw whether to mirror."""
        if rng.random() >= self.chance:
            return sample
        given = None if sample.given is None else mirrored(sample.given, self.keypoint_pairs)
        image = np.ascontiguousarray(sample.image[:, ::-1])
        return replace(sample, image=image, targets=mirrored(sample.targets, self.keypoint_pairs), given=given)


def cut(sample: Sample[S], scaled: tuple[int, int], window: Sequence[int]) -> Sample[S]:
    """A window of the scaled image, without making all of it.

    Args:
        scaled: (height, width) of the whole image after scaling.
        window: (x1, y1, x2, y2) within it.
    """
    height, width = sample.image.shape[:2]
    x1, y1, x2, y2 = window
    to_window = np.array([[scaled[1] / width, 0, -x1], [0, scaled[0] / height, -y1]], np.float64)
    # cv2 counts from pixel centers; (x + .5) * s - .5 keeps corners on corners.
    to_window[:, 2] += 0.5 * (to_window[:, :2].sum(1) - 1)
    smaller = scaled[0] < height
    image = _warped(sample.image, to_window, (x2 - x1, y2 - y1), smaller, scaled, window)
    given = None if sample.given is None else sample.given.resize(scaled).crop(window)
    return replace(sample, image=image, targets=refined(sample.targets.resize(scaled).crop(window)), given=given)


def padded(sample: Sample[S], size: tuple[int, int]) -> Sample[S]:
    """The sample with gray added at the right and the bottom.

    Args:
        size: (height, width), no smaller than the image.
    """
    height, width = sample.image.shape[:2]
    if (height, width) == tuple(size):
        return sample
    top = np.iinfo(sample.image.dtype).max if sample.image.dtype.kind in "iu" else 1.0
    image = np.full((*size, 3), PADDING * top, sample.image.dtype)
    image[:height, :width] = sample.image
    given = None if sample.given is None else sample.given.shift(0, 0, size)
    return replace(sample, image=image, targets=sample.targets.shift(0, 0, size), given=given)


def _warped(
    image: NDArray[Any],
    matrix: NDArray[np.float64],
    size: tuple[int, int],
    smaller: bool,
    scaled: tuple[int, int],
    window: Sequence[int],
) -> NDArray[Any]:
    """The window's pixels; where the image shrinks, each is the mean of those it stands for."""
    if smaller:
        whole: NDArray[Any] = cv2.resize(image, (scaled[1], scaled[0]), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(whole[window[1] : window[3], window[0] : window[2]])
    warped: NDArray[Any] = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped
