"""Optical flow between frames of a video: what moves by itself, and labels carried over.

The flow is OpenCV's DIS (Kroeger, Timofte, Dai, Van Gool: "Fast Optical Flow using Dense Inverse Search", ECCV 2016,
arXiv 1603.03590). The camera's own motion is the affine map that most places agree with; what is left is motion of
things.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Masks

SIDE = 320
"""Longer side at which motion of things is measured, px."""
STEP = 8
"""Px between the places that the camera's motion is estimated from."""


def flow(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Where each pixel of ``before`` is in ``after``, relative to where it was: (H, W, 3) RGB -> (H, W, 2) px, x and y.

    >>> rng = np.random.default_rng(0)
    >>> image = cv2.GaussianBlur(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8), (0, 0), 2)
    >>> bool(abs(np.median(flow(image, np.roll(image, 3, axis=1)), (0, 1)) - (3, 0)).max() < 0.3)
    True
    """
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after)]
    found = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(gray[0], gray[1], None)  # type: ignore[call-overload]
    return np.asarray(found, np.float32)


def carried(labels: NDArray[np.uint8], backwards: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A label map (H, W) of one frame in the next one.

    >>> labels = np.zeros((2, 4), np.uint8)
    >>> labels[:, 0] = 7
    >>> carried(labels, np.full((2, 4, 2), (-2, 0), np.float32)).tolist()  # all has moved 2 px to the right
    [[0, 0, 7, 0], [0, 0, 7, 0]]

    Args:
        backwards: :func:`flow` from the next frame to the labeled one.
    """
    y, x = np.indices(labels.shape, np.float32)
    moved = cv2.remap(labels, x + backwards[..., 0], y + backwards[..., 1], cv2.INTER_NEAREST, borderValue=0)
    return np.asarray(moved, np.uint8)


def own_motion(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far the pixels of ``after`` have moved by themselves since ``before``, beyond the camera's motion.

    >>> rng = np.random.default_rng(0)
    >>> image = cv2.GaussianBlur(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8), (0, 0), 2)
    >>> bool(np.median(own_motion(image, np.roll(image, 3, axis=1))) < 0.002)  # the camera alone has moved
    True

    Args:
        before, after: (H, W, 3) RGB.

    Returns:
        (h, w) shares of the longer side, at most :data:`SIDE` px long.
    """
    height, width = after.shape[:2]
    share = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) for image in (after, before)]
    if min(size) < 16:  # too small for the patches of the search
        return np.zeros(size[::-1], np.float32)
    field = flow(small[0], small[1])
    y, x = np.indices(field.shape[:2], np.float32)
    places = np.stack([x, y], 2)
    some = places[::STEP, ::STEP].reshape(-1, 2)
    camera, _ = cv2.estimateAffine2D(some, some + field[::STEP, ::STEP].reshape(-1, 2), ransacReprojThreshold=1.0)
    expected = np.zeros_like(field) if camera is None else places @ camera[:, :2].T + camera[:, 2] - places
    return np.asarray(np.linalg.norm(field - expected, axis=2) / max(size), np.float32)


def motion_of(masks: Masks, motion: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) mean of :func:`own_motion` within masks of an image of any size.

    >>> from eachmask.structures import RLE
    >>> halves = np.zeros((2, 4, 8), bool)
    >>> halves[0, :, :4], halves[1, :, 4:] = True, True
    >>> motion_of(RLE.from_bitmaps(halves), np.array([[0, 0.5], [0, 0.1]], np.float32)).round(3).tolist()
    [0.0, 0.3]
    """
    size = (int(motion.shape[0]), int(motion.shape[1]))
    inside = masks.resize(size).to_rle().decode()
    return np.array([float(motion[one].mean()) if one.any() else 0.0 for one in inside], np.float64)
