"""Arithmetic on runs: the verbs of masks without a canvas.

Masks are kept as *runs*, foreground stretches of the column-major flattened canvas: parallel arrays
``owner`` (which mask), ``start`` and ``stop`` (flat positions, half-open), sorted by owner and start.
*ColumnRuns* are runs cut at the ends of columns: ``owner``, ``x``, ``top``, ``bottom``. Everything here costs what
the objects' outlines cost, never what the canvas does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.structures.rle_codec import Counts, Offsets, offsets_of

Ints = NDArray[np.int64]

_PAIRS_CHUNK_SIZE = 1 << 20
"""Candidate pairs looked at together, so that memory stays flat however many objects there are."""


class Runs(NamedTuple):
    """Foreground stretches, (R,) each, sorted by (owner, start)."""

    owner: Ints
    start: Ints
    stop: Ints


class ColumnRuns(NamedTuple):
    """Vertical runs, (P,) each: column x, rows top <= y < bottom."""

    owner: Ints
    x: Ints
    top: Ints
    bottom: Ints


def counts_to_runs(counts: Counts, offsets: Offsets) -> Runs:
    """Packed COCO runs (background first) -> foreground runs; empty ones vanish.

    >>> runs = counts_to_runs(np.array([4, 8, 4], np.uint32), np.array([0, 3]))
    >>> runs.start.tolist(), runs.stop.tolist()
    ([4], [12])
    """
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    wide = counts.astype(np.int64)
    total = np.cumsum(wide)
    before = np.concatenate([[0], total])[offsets[:-1]]
    stop = total - before[owner]
    place = np.arange(len(counts)) - offsets[:-1][owner]
    chosen = (place % 2 == 1) & (wide > 0)
    return Runs(owner[chosen], (stop - wide)[chosen], stop[chosen])


def runs_to_counts(runs: Runs, num_masks: int, num_pixels: int) -> tuple[Counts, Offsets]:
    """Foreground runs -> packed COCO runs, touching runs united; as pycocotools' encoder writes them.

    Args:
        runs: sorted by (owner, start), not overlapping.
        num_masks: N; masks without runs become one background run.
        num_pixels: of the canvas.

    >>> runs = Runs(np.array([0]), np.array([4]), np.array([12]))
    >>> runs_to_counts(runs, num_masks=1, num_pixels=16)[0].tolist()
    [4, 8, 4]
    """
    runs = unite_touching(runs)
    per_mask = np.bincount(runs.owner, minlength=num_masks)
    last = np.cumsum(per_mask) - 1  # index of each mask's last run, where it has one
    end = np.zeros(num_masks, np.int64)
    some = per_mask > 0
    end[some] = runs.stop[last[some]]
    lengths = 2 * per_mask + (end < num_pixels)  # a trailing background run only where there is background
    offsets = offsets_of(lengths)
    counts = np.zeros(offsets[-1], np.int64)
    place = np.arange(len(runs.owner)) - (last - per_mask + 1)[runs.owner]
    slot = offsets[:-1][runs.owner] + 2 * place
    previous = np.concatenate([[0], runs.stop[:-1]])
    previous[place == 0] = 0
    counts[slot], counts[slot + 1] = runs.start - previous, runs.stop - runs.start
    trailing = end < num_pixels
    counts[offsets[1:][trailing] - 1] = num_pixels - end[trailing]
    return counts.astype(np.uint32), offsets


def unite_touching(runs: Runs) -> Runs:
    """Runs of one mask that begin where (or before) the one before ends become one.

    Args:
        runs: sorted by (owner, start); overlaps within a mask are allowed.

    >>> runs = unite_touching(Runs(np.array([0, 0]), np.array([0, 4]), np.array([4, 6])))
    >>> runs.start.tolist(), runs.stop.tolist()
    ([0], [6])
    """
    if not len(runs.owner):
        return runs
    # The furthest stop so far within a mask, by a running maximum that owners lift apart.
    span = int(runs.stop.max()) + 1
    furthest = np.maximum.accumulate(runs.stop + runs.owner * span) - runs.owner * span
    begins = np.ones(len(runs.owner), bool)
    begins[1:] = (runs.owner[1:] != runs.owner[:-1]) | (runs.start[1:] > furthest[:-1])
    first = np.flatnonzero(begins)
    final = np.append(first[1:], len(begins)) - 1
    return Runs(runs.owner[first], runs.start[first], furthest[final])


def runs_to_column_runs(runs: Runs, height: int) -> ColumnRuns:
    """Cut runs at the ends of columns of the given height.

    >>> cut = runs_to_column_runs(Runs(np.array([0]), np.array([2]), np.array([6])), height=4)
    >>> cut.x.tolist(), cut.top.tolist(), cut.bottom.tolist()
    ([0, 1], [2, 0], [4, 2])
    """
    first, last = runs.start // height, (runs.stop - 1) // height
    columns = last - first + 1
    index = np.repeat(np.arange(len(columns)), columns)
    x = ranges(first, columns)
    top = np.maximum(runs.start[index] - x * height, 0)
    bottom = np.minimum(runs.stop[index] - x * height, height)
    return ColumnRuns(runs.owner[index], x, top, bottom)


def column_runs_to_runs(column_runs: ColumnRuns, size: tuple[int, int]) -> Runs:
    """Column runs in any order -> sorted runs on a canvas of size (height, width); what lies outside is cut off.

    >>> cut = ColumnRuns(*(np.array(row) for row in ([0, 0], [0, 1], [2, 0], [4, 2])))
    >>> runs = column_runs_to_runs(cut, (4, 4))
    >>> runs.start.tolist(), runs.stop.tolist()
    ([2], [6])
    """
    height, width = size
    top, bottom = np.clip(column_runs.top, 0, height), np.clip(column_runs.bottom, 0, height)
    inside = (column_runs.x >= 0) & (column_runs.x < width) & (top < bottom)
    owner, x = column_runs.owner[inside], column_runs.x[inside]
    start, stop = x * height + top[inside], x * height + bottom[inside]
    order = np.argsort(start + owner * (height * width + 1), kind="stable")  # fast where it is nearly sorted
    return unite_touching(Runs(owner[order], start[order], stop[order]))


def run_boxes(runs: Runs, num_masks: int, height: int) -> NDArray[np.int64]:
    """Tight boxes (N, 4) xyxy, half-open; zeros for empty masks.

    >>> run_boxes(Runs(np.array([0]), np.array([5]), np.array([7])), 1, height=4).tolist()
    [[1, 1, 2, 3]]
    """
    boxes = np.zeros((num_masks, 4), np.int64)
    if not len(runs.owner):
        return boxes
    per_mask = np.bincount(runs.owner, minlength=num_masks)
    some = per_mask > 0
    begins = (np.cumsum(per_mask) - per_mask)[some]
    first, last = runs.start // height, (runs.stop - 1) // height
    # A run that continues in the next column fills the bottom of one and the top of the other.
    wraps = first != last
    top = np.where(wraps, 0, runs.start - first * height)
    bottom = np.where(wraps, height, runs.stop - last * height)
    boxes[some, 0] = np.minimum.reduceat(first, begins)
    boxes[some, 1] = np.minimum.reduceat(top, begins)
    boxes[some, 2] = np.maximum.reduceat(last, begins) + 1
    boxes[some, 3] = np.maximum.reduceat(bottom, begins)
    return boxes


def paint(runs: Runs, values: NDArray[np.generic], num_pixels: int) -> NDArray[Any]:
    """A flat canvas (num_pixels,) with each run's value (R,) on it; where runs overlap the earlier one shows.

    >>> paint(Runs(np.array([0]), np.array([1]), np.array([3])), np.array([7]), 5).tolist()
    [0, 7, 7, 0, 0]
    """
    order = np.argsort(runs.start, kind="stable")
    start, stop = runs.start[order], runs.stop[order]
    if (start[1:] < stop[:-1]).any():
        canvas = np.zeros(num_pixels, values.dtype)
        backwards = zip(runs.start[::-1].tolist(), runs.stop[::-1].tolist(), values[::-1], strict=True)
        for first, last, value in backwards:
            canvas[first:last] = value
        return canvas
    both = np.zeros(2 * len(order) + 1, values.dtype)
    both[1::2] = values[order]
    edges = np.stack([start, stop], axis=1).reshape(-1)
    return np.repeat(both, np.diff(edges, prepend=0, append=num_pixels))


def neighbors(a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """Pairs (i, j), sorted by i, of boxes (N, 4) and (M, 4) that have pixels in common.

    A sweep: boxes of b that begin between ``x1 - widest`` and ``x2`` of a box of a are its candidates.

    >>> i, j = neighbors(np.array([[0, 0, 4, 4]]), np.array([[3, 3, 9, 9], [4, 0, 9, 9]]))
    >>> i.tolist(), j.tolist()
    ([0], [0])
    """
    order = np.argsort(b[:, 0], kind="stable")
    x1 = b[order, 0]
    widest = int((b[:, 2] - b[:, 0]).max(initial=0))
    first = np.searchsorted(x1, a[:, 0] - widest, side="right")
    num = np.maximum(np.searchsorted(x1, a[:, 2], side="left") - first, 0)
    cuts = np.flatnonzero(np.diff(np.cumsum(num) // _PAIRS_CHUNK_SIZE)) + 1
    found: list[tuple[Ints, Ints]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for rows in np.split(np.arange(len(a)), cuts):
        i = np.repeat(rows, num[rows])
        j = order[ranges(first[rows], num[rows])]
        meet = (b[j, 2] > a[i, 0]) & (b[j, 3] > a[i, 1]) & (a[i, 3] > b[j, 1])
        found.append((i[meet], j[meet]))
    return np.concatenate([i for i, _ in found]), np.concatenate([j for _, j in found])


def ranges(first: Ints, num: Ints) -> Ints:
    """``first[k], first[k] + 1, ...`` (num[k] of them) for each k, behind one another.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    begins = np.cumsum(num) - num
    result: Ints = np.arange(int(num.sum())) + np.repeat(first - begins, num)
    return result


def common_pixels(a: Runs, b: Runs, rows: Ints, columns: Ints) -> Ints:
    """Pixels that mask ``rows[k]`` of a shares with mask ``columns[k]`` of b, (K,).

    A mask's coverage function (how many of its pixels lie before a position) is read at both ends of the
    other's runs; the differences add up to the intersection.

    >>> a, b = (Runs(np.array([0]), np.array([start]), np.array([start + 4])) for start in (0, 2))
    >>> common_pixels(a, b, np.array([0]), np.array([0])).tolist()
    [2]
    """
    if not len(rows) or not len(a.owner) or not len(b.owner):
        return np.zeros(len(rows), np.int64)
    span = int(max(a.stop.max(), b.stop.max())) + 1
    begins = np.searchsorted(a.owner, np.arange(int(rows.max()) + 2))
    num_runs = np.diff(begins)[rows]
    pair = np.repeat(np.arange(len(rows)), num_runs)
    run = ranges(begins[rows], num_runs)
    starts = b.start + b.owner * span  # owners lifted apart: one sorted sequence
    before = np.concatenate([[0], np.cumsum(b.stop - b.start)])
    lift = columns[pair] * span

    def covered(position: Ints) -> Ints:
        place = np.searchsorted(starts, position + lift, side="right") - 1
        safe = np.maximum(place, 0)
        inside = np.minimum(b.stop[safe] + b.owner[safe] * span, position + lift) - starts[safe]
        return np.where(place >= 0, before[safe] + np.maximum(inside, 0), 0)

    common = covered(a.stop[run]) - covered(a.start[run])
    return np.bincount(pair, common, minlength=len(rows)).astype(np.int64)
