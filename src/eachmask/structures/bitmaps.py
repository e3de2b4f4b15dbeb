"""Bitmaps: each mask as a small bool array and the place of its corner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.outline import trace
from eachmask.structures.polygons import Polygons
from eachmask.structures.rle import RLE
from eachmask.structures.runs import Pieces


class Bitmaps(Masks):
    """N cropped bitmaps.

    Args:
        crops: N bool arrays (h, w), of any sizes (also empty).
        origins: (N, 2) int32, x and y of each crop's upper left pixel; crops may leave the canvas.
        size: (height, width) of the canvas.
    """

    def __init__(
        self, crops: Sequence[NDArray[np.bool_]], origins: NDArray[np.int32], size: tuple[int, int]
    ) -> None:
        if len(crops) != len(origins):
            raise ValueError(f"{len(crops)} crops at {len(origins)} places")
        self.crops, self.origins, self.size = list(crops), origins, (int(size[0]), int(size[1]))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: Index) -> Bitmaps:
        chosen = as_index(index, len(self))
        return Bitmaps([self.crops[i] for i in chosen], self.origins[chosen], self.size)

    def to_bitmaps(self) -> Bitmaps:
        return self

    def to_rle(self) -> RLE:
        columns: list[list[NDArray[np.int64]]] = [[], [], [], []]
        for i, (crop, (x, y)) in enumerate(zip(self.crops, self.origins, strict=True)):
            height, width = crop.shape
            framed = np.zeros((width, height + 2), np.int8)
            framed[:, 1:-1] = crop.T
            change = np.diff(framed, axis=1)
            xs, tops = np.nonzero(change == 1)
            bottoms = np.nonzero(change == -1)[1]
            for column, values in zip(columns, (np.full(len(xs), i), xs + x, tops + y, bottoms + y), strict=True):
                column.append(values)
        joined = (np.concatenate(c).astype(np.int64) if c else np.zeros(0, np.int64) for c in columns)
        return RLE.from_pieces(Pieces(*joined), len(self), self.size)

    def to_polygons(self) -> Polygons:
        outers, holes = [], []
        for crop, origin in zip(self.crops, self.origins.astype(np.float32), strict=True):
            around, inside = trace(crop)
            outers.append([ring + origin for ring in around])
            holes.append([ring + origin for ring in inside])
        return Polygons(outers, holes, self.size)

    def resize(self, size: tuple[int, int]) -> Bitmaps:
        """Bilinear on each crop, foreground from one half on."""
        scale_y, scale_x = size[0] / self.size[0], size[1] / self.size[1]
        crops, origins = [], np.zeros((len(self), 2), np.int32)
        for i, (crop, (x, y)) in enumerate(zip(self.crops, self.origins, strict=True)):
            rows, top = _weights(crop.shape[0], int(y), scale_y)
            columns, left = _weights(crop.shape[1], int(x), scale_x)
            value = rows @ crop.astype(np.float32) @ columns.T
            crops.append(value >= 0.5)
            origins[i] = left, top
        return Bitmaps(crops, origins, size)


def _weights(length: int, origin: int, scale: float) -> tuple[NDArray[np.float32], int]:
    """Bilinear weights (target, length) along one axis, background around; and the target's origin."""
    first = int(np.floor((origin - 0.5) * scale))
    last = int(np.ceil((origin + length + 0.5) * scale))
    source = (np.arange(first, last) + 0.5) / scale - 0.5 - origin
    distance = np.abs(source[:, None] - np.arange(length)[None])
    return np.clip(1 - distance, 0, 1).astype(np.float32), first
