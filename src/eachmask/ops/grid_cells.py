"""Masks seen by a grid of cells: where an object's center falls, and how a coarse map would draw it.

Every object is looked at in a window of its own, so nothing grows with the image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eachmask.structures import Bitmaps, Masks


def center_of_mass(one: Bitmaps) -> tuple[np.float32, np.float32]:
    """Mean column and row of an object's pixels, counted from 0.

    >>> one = Bitmaps([np.ones((2, 3), bool)], np.array([[4, 1]], np.int32), (8, 8))
    >>> [float(place) for place in center_of_mass(one)]
    [5.0, 1.5]
    """
    (crop,), ((x, y),) = one.crops, one.origins.tolist()
    by_column, by_row = crop.sum(0), crop.sum(1)
    total = by_column.sum()
    column = (by_column * np.arange(x, x + len(by_column))).sum() / total
    row = (by_row * np.arange(y, y + len(by_row))).sum() / total
    return np.float32(column), np.float32(row)


def cell_centers_within(one: Bitmaps, frame: tuple[int, int], grid: int) -> Tensor:
    """(S, S) bool: cells whose center lies in the mask.

    >>> one = Bitmaps([np.ones((4, 4), bool)], np.array([[0, 0]], np.int32), (8, 8))
    >>> cell_centers_within(one, (8, 8), 2).tolist()
    [[True, False], [False, False]]
    """
    (crop,), ((x, y),) = one.crops, one.origins.tolist()
    rows, columns = (((np.arange(grid) + 0.5) * side / grid).astype(np.int64) for side in frame)
    padded = np.pad(crop, 1)  # whatever lies beside the crop reads its frame
    inside = padded[np.ix_(np.clip(rows - y, -1, crop.shape[0]) + 1, np.clip(columns - x, -1, crop.shape[1]) + 1)]
    return torch.from_numpy(inside)


def every_cell(masks: Masks, objects: Tensor, stride: int, shape: torch.Size) -> Tensor:
    """True masks at a map's resolution, each resized bilinearly and cut at one half in its own window.

    Bilinearly, a cell of ``stride`` pixels (an even number) is the mean of the 2 x 2 in its middle.

    Args:
        objects: (P,) which of the masks; repeated ones are made once.
        shape: (H, W) of the map, whose first cell is at the image's corner.

    Returns:
        (P, H, W) bool.

    >>> one = Bitmaps([np.ones((4, 4), bool)], np.array([[0, 0]], np.int32), (8, 8))
    >>> every_cell(one, torch.tensor([0]), 4, torch.Size((2, 2))).tolist()
    [[[True, False], [False, False]]]
    """
    different, which = objects.unique(return_inverse=True)
    bitmaps = masks[different].to_bitmaps()
    result = np.zeros((len(different), *shape), bool)
    middle = slice(stride // 2 - 1, stride // 2 + 1)
    for canvas, crop, (x, y) in zip(result, bitmaps.crops, bitmaps.origins.tolist(), strict=True):
        height, width = crop.shape
        above, left = y % stride, x % stride
        framed = np.pad(crop, ((above, -(above + height) % stride), (left, -(left + width) % stride)))
        blocks = framed.reshape(framed.shape[0] // stride, stride, framed.shape[1] // stride, stride)
        cells = blocks[:, middle, :, middle].sum((1, 3)) >= 2
        part = canvas[y // stride : y // stride + cells.shape[0], x // stride : x // stride + cells.shape[1]]
        part[:] = cells[: part.shape[0], : part.shape[1]]
    return torch.from_numpy(result)[which]
