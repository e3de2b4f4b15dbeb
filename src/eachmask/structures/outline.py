"""Outlines of a small bitmap along the edges of its pixels: exact, so that they can be filled again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float32]


def trace(bitmap: NDArray[np.bool_]) -> tuple[list[Ring], list[Ring]]:
    """Rings of corner points around 4-connected foreground.

    Every corner of the outline is a vertex with one horizontal and one vertical neighbour, and the
    corners of one lattice row pair off from left to right (of a column from top to bottom): so the
    outline is found by two sorts, without following it pixel by pixel.

    Args:
        bitmap: (h, w).

    Returns:
        outer rings and hole rings, each (K, 2) float32 (x, y) on the integer lattice, not closed.
        Diagonal neighbours count as apart, for holes as joined.
    """
    corners = _corners(np.pad(bitmap, 1))
    if not len(corners):
        return [], []
    x, y, goes_right, goes_down = corners.T
    across = _partners(np.lexsort((goes_right, x, y)))
    along = _partners(np.lexsort((goes_down, y, x)))
    outer: list[Ring] = []
    holes: list[Ring] = []
    seen = np.zeros(len(corners), bool)
    for first in np.lexsort((x, y)):
        if seen[first]:
            continue
        ring: list[int] = []
        at, step = int(first), across
        while not seen[at]:
            seen[at] = True
            ring.append(at)
            at = int(step[at])
            step = along if step is across else across
        points = np.stack([x[ring], y[ring]], axis=1).astype(np.float32)
        # The topmost-leftmost corner of a ring has the ring's inside to its lower right.
        inside = bitmap[y[first], x[first]] if y[first] < bitmap.shape[0] and x[first] < bitmap.shape[1] else False
        (outer if inside else holes).append(points)
    return outer, holes


def _corners(padded: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(C, 4): x, y, goes right (else left), goes down (else up); saddles give two corners."""
    a, b = padded[:-1, :-1], padded[:-1, 1:]  # upper left, upper right of each lattice point
    c, d = padded[1:, :-1], padded[1:, 1:]
    left, right = a != c, b != d  # an outline runs left / right / up / down from the point
    up, down = a != b, c != d
    corner = (left ^ right) & (up ^ down)
    ys, xs = np.nonzero(corner)
    single = np.stack([xs, ys, right[ys, xs], down[ys, xs]], axis=1)
    ys, xs = np.nonzero(left & right & up & down)
    falling = a[ys, xs]  # foreground upper left and lower right; each pixel keeps its own corner
    one = np.stack([xs, ys, np.zeros_like(xs), ~falling], axis=1)
    two = np.stack([xs, ys, np.ones_like(xs), falling], axis=1)
    return np.concatenate([single, one, two]).astype(np.int64)


def _partners(order: NDArray[np.intp]) -> NDArray[np.intp]:
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner
