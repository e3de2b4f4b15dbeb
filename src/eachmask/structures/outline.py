"""Outlines along the edges of pixels: exact, so that they can be filled again.

Every maximal horizontal stretch of an outline is a chain of column runs' ends that lie side by side at the same
height and face the same way; its two ends are corners. The corners above one another on a vertical line of
the pixel lattice pair off from top to bottom into the vertical stretches. So all outlines of all masks come
from two sorts; only naming the rings follows them corner by corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.runs import ColumnRuns, Ints

Ring = NDArray[np.float32 | np.float64]
"""(K, 2) of (x, y), K >= 3, not closed."""


def trace(column_runs: ColumnRuns, num_masks: int) -> tuple[list[list[Ring]], list[list[Ring]]]:
    """Rings of corner points around 4-connected foreground.

    Args:
        column_runs: column runs of the masks; those of one mask in one column do not touch.
        num_masks: N.

    Returns:
        for each mask its outer rings, and for each mask its holes. Rings are float32 on the integer lattice,
        begin at their topmost leftmost corner and run clockwise (as seen on a console, y downwards).
        Diagonal neighbors count as apart, diagonal gaps as one hole.

    >>> from eachmask.structures.rle import RLE
    >>> mask = RLE.from_bitmaps(np.array([[[0, 1, 1, 0]]], bool))
    >>> outers, holes = trace(mask.column_runs(), 1)
    >>> [ring.tolist() for ring in outers[0]], holes
    ([[[1.0, 0.0], [3.0, 0.0], [3.0, 1.0], [1.0, 1.0]]], [[]])
    """
    owner, y, faces_up, left, right = _chains(column_runs)
    x = np.stack([left, right], axis=1).reshape(-1)  # corner 2c is the left end of chain c, 2c + 1 its right end
    rings, begins = _follow(_vertical_partners(np.repeat(owner, 2), x, np.repeat(y, 2), np.repeat(faces_up, 2)))
    points = np.stack([x[rings], y[rings // 2]], axis=1).astype(np.float32)
    chain = rings[begins] // 2
    outers: list[list[Ring]] = [[] for _ in range(num_masks)]
    holes: list[list[Ring]] = [[] for _ in range(num_masks)]
    bounds = [*begins.tolist(), len(rings)]
    for k, (mask, outer) in enumerate(zip(owner[chain].tolist(), faces_up[chain].tolist(), strict=True)):
        (outers if outer else holes)[mask].append(points[bounds[k] : bounds[k + 1]])
    return outers, holes


def _chains(column_runs: ColumnRuns) -> tuple[Ints, Ints, NDArray[np.bool_], Ints, Ints]:
    """Horizontal stretches sorted by (owner, y): owner, y, whether the object lies below, x from, x to."""
    owner, x = np.tile(column_runs.owner, 2), np.tile(column_runs.x, 2)
    y = np.concatenate([column_runs.top, column_runs.bottom])
    faces_up = np.arange(len(y)) < len(column_runs.top)
    order = np.lexsort((x, faces_up, y, owner))
    owner, x, y, faces_up = owner[order], x[order], y[order], faces_up[order]
    begins = np.ones(len(order), bool)
    same = (np.diff(owner) == 0) & (np.diff(y) == 0) & (np.diff(faces_up.astype(np.int8)) == 0)
    begins[1:] = ~(same & (np.diff(x) == 1))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(order)) - 1 if len(first) else first
    return owner[first], y[first], faces_up[first], x[first], x[last] + 1


def _vertical_partners(owner: Ints, x: Ints, y: Ints, faces_up: NDArray[np.bool_]) -> Ints:
    """For each corner the one at the other end of its vertical stretch.

    Where two pixels touch at a corner, two corners of the outline lie on one point. The one below its object
    goes up from there and the other one down, so that each pixel keeps its own corner.
    """
    order = np.lexsort((faces_up, y, x, owner))
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _follow(partner: Ints) -> tuple[Ints, Ints]:
    """All rings' corners behind one another, and where each ring begins."""
    jump = partner.tolist()  # a list: reading an array element by element is many times slower
    seen = bytearray(len(jump))
    corners: list[int] = []
    begins: list[int] = []
    for start in range(0, len(jump), 2):
        if seen[start]:
            continue
        begins.append(len(corners))
        at = start
        while not seen[at]:
            across = at ^ 1
            seen[at] = seen[across] = 1
            corners += (at, across)
            at = jump[across]
    return np.array(corners, np.int64), np.array(begins, np.int64)
