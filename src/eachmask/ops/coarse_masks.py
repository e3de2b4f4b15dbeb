"""True masks on a coarse grid: what heads that draw the whole image learn from, without any large canvas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Masks


class Coarse(NamedTuple):
    """One object's mask on a coarse grid, as far as it reaches.

    >>> one = Coarse(row=1, column=0, cells=np.array([[True, False], [True, True]]))
    >>> one.area, one.within([0, 0, 2, 2]).tolist()
    (3, [[0.0, 0.0], [1.0, 0.0]])
    """

    row: int
    column: int
    cells: NDArray[np.bool_]  # (h, w)

    @property
    def area(self) -> int:
        """Cells that belong to the object."""
        return int(self.cells.sum())

    def paint(self, canvas: NDArray[np.float32], value: float) -> None:
        """Fill the object's cells of the whole grid."""
        height, width = self.cells.shape
        canvas[self.row : self.row + height, self.column : self.column + width][self.cells] = value

    def within(self, window: list[int]) -> NDArray[np.float32]:
        """The part in a window (x1, y1, x2, y2), as float."""
        x1, y1, x2, y2 = window
        result = np.zeros((y2 - y1, x2 - x1), np.float32)
        height, width = self.cells.shape
        top, bottom = max(self.row, y1), min(self.row + height, y2)
        left, right = max(self.column, x1), min(self.column + width, x2)
        if top < bottom and left < right:
            part = self.cells[top - self.row : bottom - self.row, left - self.column : right - self.column]
            result[top - y1 : bottom - y1, left - x1 : right - x1] = part
        return result


def coarse_masks(masks: Masks, frame: tuple[int, int], grid: tuple[int, int]) -> list[Coarse]:
    """Masks resized bilinearly to a grid and cut above one half, each in a window of its own.

    Args:
        masks: on a canvas in the upper left corner of the frame.
        frame: (height, width) px that the grid spans.
        grid: (rows, columns).

    >>> from eachmask.structures import RLE
    >>> mask = np.zeros((1, 8, 8), bool)
    >>> mask[0, :4] = True
    >>> (coarse,) = coarse_masks(RLE.from_bitmaps(mask), (8, 8), (4, 4))
    >>> coarse.row, coarse.cells.shape, coarse.area
    (0, (2, 4), 8)
    """
    bitmaps = masks.to_bitmaps()
    result = []
    for crop, (x, y) in zip(bitmaps.crops, bitmaps.origins.tolist(), strict=True):
        framed = np.pad(crop.astype(np.float32), 1)
        row, rows = _resampled(framed, y, frame[0], grid[0])
        column, columns = _resampled(rows.T, x, frame[1], grid[1])
        result.append(Coarse(row, column, columns.T > 0.5))
    return result


def _resampled(values: NDArray[np.float32], origin: int, frame: int, grid: int) -> tuple[int, NDArray[np.float32]]:
    """Rows of a crop with a row of background on both sides, resampled: the first row's place on the grid, and rows."""
    place = np.clip((np.arange(grid, dtype=np.float32) + 0.5) * np.float32(frame / grid) - 0.5, 0, None)
    above = place.astype(np.int64)
    below = np.minimum(above + 1, frame - 1)
    near = np.flatnonzero((below >= origin) & (above < origin + len(values) - 2))
    first, last = (int(near[0]), int(near[-1]) + 1) if len(near) else (0, 0)
    share = (place - above)[first:last, None].astype(np.float32)
    upper, lower = (np.clip(i[first:last] - origin + 1, 0, len(values) - 1) for i in (above, below))
    return first, values[upper] * (1 - share) + values[lower] * share
