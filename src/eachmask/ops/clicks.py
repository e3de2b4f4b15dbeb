"""Where a person would click: the middle of an object, and then the middle of the largest mistake.

The protocol of interactive segmentation (Xu et al., CVPR 2016, arXiv 1603.04042; as RITM has it, Sofiiuk et al., arXiv
2102.06583): of the missed and the wrongly taken pixels, the place that is deepest inside its error is clicked next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Bits = NDArray[np.bool_]


class Click(NamedTuple):
    """One click; the pixel (row, column) has its center at (column + 0.5, row + 0.5).

    >>> Click(True, row=2, column=5).point
    (5.5, 2.5)
    """

    positive: bool
    row: int
    column: int

    @property
    def point(self) -> tuple[float, float]:
        """(x, y) of the pixel's center."""
        return self.column + 0.5, self.row + 0.5


def depths(mask: Bits, exact: bool = True) -> NDArray[np.float32]:
    """How far each pixel of a mask (H, W) is from the nearest pixel outside, px; beyond the border is outside.

    Args:
        exact: exact Euclidean distances; False allows for 2% of error and takes a tenth of the time.

    >>> depths(np.ones((3, 3), bool)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    """
    framed = np.pad(mask, 1)
    if exact:
        found = ndimage.distance_transform_edt(framed)
    else:
        found = cv2.distanceTransform(framed.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(found[1:-1, 1:-1], np.float32)


def next_click(target: NDArray[np.int8] | Bits, found: Bits, before: Sequence[Click] = ()) -> Click:
    """The click that corrects the largest mistake.

    Args:
        target: (H, W) of 1 on the object, 0 beside it and -1 where nothing counts; or a mask.
        found: (H, W) what was answered.
        before: clicks that were made; none is made twice.

    Returns:
        a positive click where an object's pixel is missing, else a negative one; of equally deep mistakes the negative
        one, and of equally deep places the first in reading order.

    >>> target, found = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
    >>> target[1:4, 1:4] = True
    >>> next_click(target, found)
    Click(positive=True, row=2, column=2)
    >>> next_click(target, np.ones((5, 5), bool)).positive
    False
    """
    labels = np.asarray(target)
    missed = depths((labels == 1) & ~found)
    wrong = depths((labels == 0) & found)
    for click in before:
        missed[click.row, click.column] = wrong[click.row, click.column] = 0
    positive = bool(missed.max() > wrong.max())
    row, column = divmod(int((missed if positive else wrong).argmax()), labels.shape[1])
    return Click(positive, row, column)


def random_place(mask: Bits, rng: np.random.Generator, depth: float = 0.3, middle: float = 0.4) -> tuple[float, float]:
    """A place (x, y) on a mask (H, W) as hurried people choose it.

    Args:
        depth: as a share of the deepest place's depth, so deep at least.
        middle: chance of the deepest place itself.

    Raises:
        ValueError: the mask is empty.

    >>> mask = np.zeros((5, 5), bool)
    >>> mask[1:4, 1:4] = True
    >>> random_place(mask, np.random.default_rng(0), middle=1.0)
    (2.5, 2.5)
    """
    if not mask.any():
        raise ValueError("there is no place on an empty mask")
    depth_of = depths(mask, exact=False)
    most = float(depth_of.max())
    places = np.flatnonzero(depth_of >= (most if rng.random() < middle else depth * most))
    row, column = divmod(int(rng.choice(places)), mask.shape[1])
    return column + 0.5, row + 0.5
