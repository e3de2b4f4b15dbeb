"""Bitmaps: each mask as a small bool array and the place of its corner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.rle import RLE
from eachmask.structures.rle_codec import offsets_of
from eachmask.structures.runs import ColumnRuns


class Bitmaps(Masks):
    """N cropped bitmaps.

    >>> square = Bitmaps([np.ones((2, 2))], np.array([[3, 1]]), (10, 10))
    >>> square.boxes().tolist(), square.resize((20, 20)).area().tolist()
    ([[3.0, 1.0, 5.0, 3.0]], [16])

    Args:
        crops: N arrays (h, w) of any sizes (also empty); foreground where they are not 0.
        origins: (N, 2) int, x and y of each crop's upper left pixel; crops may leave the canvas.
        size: (height, width) of the canvas.

    Raises:
        ValueError: a crop is not (h, w), or crops and origins do not pair off.
    """

    def __init__(self, crops: Sequence[NDArray[Any]], origins: NDArray[Any], size: tuple[int, int]) -> None:
        self.crops = [np.asarray(crop, bool) for crop in crops]
        self.origins = np.asarray(origins, np.int32).reshape(-1, 2)
        self.size = (int(size[0]), int(size[1]))
        if len(crops) != len(self.origins):
            raise ValueError(f"{len(crops)} crops at {len(self.origins)} places")
        for crop in self.crops:
            if crop.ndim != 2:
                raise ValueError(f"a crop must be (h, w), not {crop.shape}")

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: Index) -> Bitmaps:
        chosen = as_index(index, len(self))
        return Bitmaps([self.crops[i] for i in chosen], self.origins[chosen], self.size)

    def to_bitmaps(self) -> Bitmaps:
        return self

    def to_rle(self) -> RLE:
        """All crops' columns behind one another, a background pixel under each: one pass finds all column runs, since
        what changes are by turns their first pixels and the first ones behind them."""
        height, width = np.array([crop.shape for crop in self.crops], np.int64).reshape(-1, 2).T
        begins = offsets_of(width * (height + 1))
        flat = np.zeros(begins[-1] + 1, np.bool_)  # and one before the first
        for crop, begin in zip(self.crops, begins.tolist(), strict=False):
            h, w = crop.shape
            flat[begin + 1 : begin + 1 + w * (h + 1)].reshape(w, h + 1)[:, :h] = crop.T
        start, stop = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2).T
        owner = np.searchsorted(begins, start, side="right") - 1
        column, top = np.divmod(start - begins[owner], height[owner] + 1)
        x, y = self.origins.astype(np.int64)[owner].T
        return RLE.from_column_runs(
            ColumnRuns(owner, x + column, y + top, y + top + stop - start), len(self), self.size
        )

    def resize(self, size: tuple[int, int]) -> Bitmaps:
        """Bilinear on each crop, foreground from one half on: what resizing whole canvases would give."""
        crops = []
        origins = np.zeros((len(self), 2), np.int32)
        for i, (crop, (x, y)) in enumerate(zip(self.crops, self.origins.tolist(), strict=True)):
            rows, origins[i, 1] = _stretched(np.pad(crop.astype(np.float32), 1), y, self.size[0], size[0])
            columns, origins[i, 0] = _stretched(rows.T, x, self.size[1], size[1])
            crops.append(columns.T >= 0.5)
        return Bitmaps(crops, origins, size)


def _stretched(values: NDArray[np.float32], origin: int, old: int, new: int) -> tuple[NDArray[np.float32], int]:
    """Rows of a crop framed by background, resampled bilinearly, and the first row's place on the new canvas.

    Args:
        values: (h + 2, w), first and last row background.
        origin: place of the row after the first.
        old, new: lengths of the canvas.
    """
    num, scale = len(values) - 2, new / old
    first = min(max(int(np.floor((origin - 0.5) * scale)), 0), new)
    last = min(max(int(np.ceil((origin + num + 0.5) * scale)), first), new)
    # By pixel centers: row r lies at (r + 0.5) / scale - 0.5 of the old canvas, whose outermost rows repeat forever.
    place = np.clip((np.arange(first, last) + 0.5) / scale - 0.5, 0, old - 1) + 1 - origin
    above = np.clip(np.floor(place).astype(np.int64), 0, num)
    share = np.clip(place - above, 0, 1).astype(np.float32)[:, None]
    return values[above] * (1 - share) + values[above + 1] * share, first
