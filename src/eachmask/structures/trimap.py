"""Trimap: surely foreground, surely background, and a band between them where a matte is to be found."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.structures.masks import Masks
from eachmask.structures.pixels import Change, PixelMap, check_map, nearest

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
"""The values that image files of trimaps have."""


@dataclass(eq=False, repr=False)
class Trimap(PixelMap):
    """One of three values per pixel.

    >>> Trimap(torch.tensor([[0, 128, 255, 255]], dtype=torch.uint8))
    Trimap(1 x 4: 50% foreground, 25% unknown, 25% background)

    Raises:
        ValueError: the values are not (H, W), or others than 0, 128 and 255.
    """

    values: Tensor
    """(H, W) uint8: 0 is background, 128 unknown, 255 foreground."""

    def __post_init__(self) -> None:
        check_map(self.values, "a trimap")
        allowed = sum(self.values == value for value in (BACKGROUND, UNKNOWN, FOREGROUND))
        if not bool(torch.as_tensor(allowed).bool().all()):
            odd = int(self.values[~torch.as_tensor(allowed).bool()][0])
            raise ValueError(f"a trimap holds 0 (background), 128 (unknown) and 255 (foreground), not {odd}")
        self.values = self.values.to(torch.uint8)

    def __repr__(self) -> str:
        height, width = self.image_size
        shares = [100 * float(part.double().mean()) for part in (self.foreground, self.unknown, self.background)]
        return "Trimap({} x {}: {:.0f}% foreground, {:.0f}% unknown, {:.0f}% background)".format(height, width, *shares)

    @property
    def image_size(self) -> tuple[int, int]:
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def foreground(self) -> Tensor:
        """(H, W) bool, surely foreground."""
        return self.values == FOREGROUND

    @property
    def unknown(self) -> Tensor:
        """(H, W) bool, to be found out."""
        return self.values == UNKNOWN

    @property
    def background(self) -> Tensor:
        """(H, W) bool, surely background."""
        return self.values == BACKGROUND

    def resize(self, image_size: tuple[int, int]) -> Trimap:
        """Stretched to another (height, width): each pixel takes the value that lies at its center."""
        return self._changed(lambda values, outside: nearest(values, image_size))

    @staticmethod
    def from_gray(pixels: NDArray[np.uint8]) -> Trimap:
        """Of an image file's gray (H, W): nearly white is foreground, nearly black background, the rest unknown.

        >>> Trimap.from_gray(np.array([[2, 127, 254, 255]], np.uint8)).values.tolist()
        [[0, 128, 255, 255]]
        """
        values = np.where(pixels >= 250, FOREGROUND, np.where(pixels <= 5, BACKGROUND, UNKNOWN))
        return Trimap(torch.from_numpy(values.astype(np.uint8)))

    @staticmethod
    def from_mask(mask: Masks, width: float = 0.05) -> Trimap:
        """A band along the outline, as wide as the object is large: a cup gets a narrow one, a near face a wide one.

        Args:
            mask: one or more objects; each has its own band. What one object surely covers is foreground, also where
                another's band reaches into it.
            width: how far the band reaches to either side, as a share of the square root of the object's area; at
                least 1 px.

        Raises:
            ValueError: the width is negative.
        """
        if width < 0:
            raise ValueError(f"a band cannot be {width:g} wide")
        canvas = np.full(mask.size, BACKGROUND, np.uint8)
        bitmaps = mask.to_rle().to_bitmaps()
        for crop, (x, y) in zip(bitmaps.crops, bitmaps.origins.tolist(), strict=True):
            if crop.any():
                _draw(canvas, crop, x, y, max(1, round(width * math.sqrt(crop.sum()))))
        return Trimap(torch.from_numpy(canvas))

    def _changed(self, change: Change) -> Trimap:
        return replace(self, values=change(self.values, BACKGROUND))


def _draw(canvas: NDArray[np.uint8], crop: NDArray[np.bool_], x: int, y: int, band: int) -> None:
    """One object, whose bitmap has its corner at (x, y), with a band of so many pixels to either side.

    The image's border is no outline: an object that leaves the image continues beyond it.
    """
    margin = band + 1
    top, left = max(y - margin, 0), max(x - margin, 0)
    window = canvas[top : y + crop.shape[0] + margin, left : x + crop.shape[1] + margin]
    inside = np.zeros(window.shape, np.uint8)
    inside[y - top : y - top + crop.shape[0], x - left : x - left + crop.shape[1]] = crop
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # to the nearest pixel outside
    beyond = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = (depth <= band) & (beyond <= band)
    value = np.where(near, UNKNOWN, np.where(inside > 0, FOREGROUND, BACKGROUND)).astype(np.uint8)
    np.maximum(window, value, out=window)
