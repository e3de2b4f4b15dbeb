"""Images too large for one pass: overlapping tiles, and joining what they see without a seam.

Both tiles see all pixels of their overlap, so what an object looks like *there* decides whether two detections are
the same object, whether or not one of them is cut off by the end of its tile. Groups of detections are then one
object: over two tiles, four, or as many as it crosses. Everything happens on runs; cost grows with the objects near
seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.structures import RLE, Instances
from eachmask.structures import boxes as box_ops
from eachmask.structures.runs import Runs

Box = tuple[int, int, int, int]

SAME = 0.5
"""Two detections are one object from this IoU on, measured within the overlap of their tiles."""
INSIDE = 0.6
"""A cut-off fragment belongs to a detection that covers this share of what both tiles see of it."""
WHOLE = 0.5
"""A detection that its tile shows whole stands for its group if it has this share of the largest member's area."""
DUPLICATE = 0.3
"""Objects whose masks overlap more (IoU) are two opinions about one place, unless one and the same tile sees both."""


def tile_boxes(size: tuple[int, int], tile: int | tuple[int, int], overlap: float = 0.2) -> list[Box]:
    """Windows of at most tile x tile pixels that cover an image, row by row.

    Neighbors share at least ``overlap * tile`` pixels; the windows of a row are evenly spaced and of equal size.

    Args:
        size: (height, width).
        tile: side, or (height, width), px, above 0.
        overlap: share of a side, 0 <= overlap < 1.

    Returns:
        (x1, y1, x2, y2) each.

    Raises:
        ValueError: a side or an overlap outside these bounds.

    >>> tile_boxes((100, 180), tile=100)
    [(0, 0, 100, 100), (80, 0, 180, 100)]
    """
    sides = (tile, tile) if isinstance(tile, int) else tile
    if min(sides) < 1 or not 0 <= overlap < 1:
        raise ValueError(f"tiles of {tile} px with an overlap of {overlap} cannot cover anything")
    rows, columns = (_starts(whole, side, overlap) for whole, side in zip(size, sides, strict=True))
    height, width = (min(pair) for pair in zip(sides, size, strict=True))
    return [(x, y, x + width, y + height) for y in rows for x in columns]


def sliding_boxes(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> list[Box]:
    """Windows at a fixed stride that cover an image, row by row; the last ones are pulled back to its border.

    So MMSegmentation lays them (``mode="slide"``), and other papers on semantic segmentation.

    Args:
        size, window, stride: (height, width), px; a stride is not longer than the window.

    Returns:
        (x1, y1, x2, y2) each.

    Raises:
        ValueError: a window or a stride outside these bounds.

    >>> sliding_boxes((100, 180), (100, 100), (60, 60))
    [(0, 0, 100, 100), (60, 0, 160, 100), (80, 0, 180, 100)]
    """
    if not all(0 < step <= side for step, side in zip(stride, window, strict=True)):
        raise ValueError(f"windows of {window} px at a stride of {stride} px leave gaps")
    height, width = (min(pair) for pair in zip(window, size, strict=True))
    rows, columns = (
        [*range(0, whole - side, step), whole - side]
        for whole, side, step in zip(size, (height, width), stride, strict=True)
    )
    return [(x, y, x + width, y + height) for y in rows for x in columns]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    if side <= tile:
        return [0]
    stride = max(1, int(tile * (1 - overlap)))
    num = -(-(side - tile) // stride) + 1
    return [round(i * (side - tile) / (num - 1)) for i in range(num)]


def merge_tiles(parts: Sequence[Instances], tiles: Sequence[Box]) -> Instances:
    """Detections of all tiles -> the objects of the image, best score first.

    Args:
        parts: for each tile its detections, already placed on the whole image.
        tiles: their windows, px of the whole image.

    Returns:
        one instance per group of detections that are the same object: the one seen whole where there is one, else the
        union of the parts; with the group's best score.

    >>> def seen(*box):
    ...     mask = np.zeros((1, 4, 12), bool)
    ...     mask[0, box[1] : box[3], box[0] : box[2]] = True
    ...     return Instances((4, 12), torch.tensor([box]).float(), RLE.from_bitmaps(mask), scores=torch.tensor([0.9]))
    >>> whole = merge_tiles([seen(4, 0, 8, 4), seen(4, 0, 10, 4)], [(0, 0, 8, 4), (4, 0, 12, 4)])
    >>> whole.boxes.tolist()  # the left tile cuts it off
    [[4.0, 0.0, 10.0, 4.0]]
    """
    everything = Instances.cat(list(parts))
    if not len(everything):
        return everything
    first = np.cumsum([0, *(len(part) for part in parts)])
    views = [_View.of(part, tile) for part, tile in zip(parts, tiles, strict=True)]
    pairs = [
        _same_object(views[a], views[b]) + np.array([first[a], first[b]])
        for a, b in _overlapping(tiles)
        if len(parts[a]) and len(parts[b])
    ]
    links = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    group = _groups(links, len(everything))
    cut = np.concatenate([view.cut for view in views])
    united = _unite(everything, group, cut)
    if united.masks is not None:
        united = united[_distinct(united, everything, group, cut, views)]
    return united[np.argsort(-_scores(united), kind="stable")]


def _groups(links: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Number of the group of each of `num` detections, (N,), from the pairs (P, 2) that are one object."""
    group, before = np.arange(num), np.full(num, -1)
    while not np.array_equal(group, before):
        before, group = group, group.copy()
        for here, there in (links.T, links.T[::-1]):
            np.minimum.at(group, here, before[there])
        group = group[group]  # whoever follows a detection follows whom that one follows
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


class _View(NamedTuple):
    """What one tile sees."""

    instances: Instances
    tile: Box
    extent: NDArray[np.float32]  # (N, 4) tight boxes
    cut: NDArray[np.bool_]  # (N,) reaches an end of the tile that is not the end of the image

    @staticmethod
    def of(instances: Instances, tile: Box) -> _View:
        x1, y1, x2, y2 = tile
        height, width = instances.image_size
        box = _extent(instances)
        cut = (
            ((box[:, 0] <= x1 + 1) & (x1 > 0))
            | ((box[:, 1] <= y1 + 1) & (y1 > 0))
            | ((box[:, 2] >= x2 - 1) & (x2 < width))
            | ((box[:, 3] >= y2 - 1) & (y2 < height))
        )
        return _View(instances, tile, box, cut)


def _overlapping(tiles: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs of tiles that share pixels."""
    t = np.asarray(tiles)
    meet = (t[:, None, 2:] > t[None, :, :2]).all(-1) & (t[None, :, 2:] > t[:, None, :2]).all(-1)
    return [(int(a), int(b)) for a, b in zip(*np.nonzero(np.triu(meet, 1)), strict=True)]


def _extent(instances: Instances) -> NDArray[np.float32]:
    if instances.masks is not None:
        return instances.masks.boxes()
    boxes: NDArray[np.float32] = instances.boxes.numpy()
    return boxes


def _same_object(view_a: _View, view_b: _View) -> NDArray[np.int64]:
    """Pairs (i, j), (P, 2), of detections of two tiles that are one object, by what both tiles see."""
    (a, tile_a, extent_a, cut_a), (b, tile_b, extent_b, cut_b) = view_a, view_b
    low, high = np.maximum(tile_a[:2], tile_b[:2]), np.minimum(tile_a[2:], tile_b[2:])
    window = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    near_a, near_b = (np.flatnonzero(_reaches(extent, window)) for extent in (extent_a, extent_b))
    if not len(near_a) or not len(near_b):
        return np.zeros((0, 2), np.int64)
    common, area_a, area_b = _within(a[near_a], b[near_b], window)
    union = area_a[:, None] + area_b[None] - common
    same = common >= SAME * np.maximum(union, 1)
    # A fragment at the end of its tile is often drawn badly: enough that another tile's object covers it.
    same |= cut_a[near_a][:, None] & (common >= INSIDE * np.maximum(area_a, 1)[:, None])
    same |= cut_b[near_b][None] & (common >= INSIDE * np.maximum(area_b, 1)[None])
    same &= (a.labels[near_a][:, None] == b.labels[near_b][None]).numpy()
    i, j = np.nonzero(same)
    return np.stack([near_a[i], near_b[j]], axis=1)


def _reaches(boxes: NDArray[np.float32], window: Box) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = window
    return (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)


def _within(
    a: Instances, b: Instances, window: Box
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Common area (N, M) and areas (N,), (M,) of what lies in the window."""
    if a.masks is not None and b.masks is not None:
        first, second = a.masks.crop(window), b.masks.crop(window)
        return (
            first.intersection(second).astype(np.float64),
            first.area().astype(np.float64),
            second.area().astype(np.float64),
        )
    corner = torch.tensor(window[:2] * 2, dtype=torch.float32)
    size = (window[3] - window[1], window[2] - window[0])
    p, q = box_ops.clip(a.boxes - corner, size), box_ops.clip(b.boxes - corner, size)
    measures = (box_ops.intersection(p, q), box_ops.area(p), box_ops.area(q))
    common, area_a, area_b = (v.double().numpy() for v in measures)
    return common, area_a, area_b


def _unite(everything: Instances, group: NDArray[np.int64], cut: NDArray[np.bool_]) -> Instances:
    """One instance per group, in the order of their numbers."""
    scores = _scores(everything)
    order = np.lexsort((-scores, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    best = order[begins]  # of each group; groups are numbered 0 .. G - 1
    several = np.bincount(group) > 1
    boxes = everything.boxes[best].clone()
    masks = None
    if everything.masks is not None:
        rle = everything.masks.to_rle()
        masks = _masks_of_groups(rle, group, _stand_ins(rle.area(), group, order, cut))
        boxes[several] = torch.from_numpy(masks.boxes()[several]).to(boxes)
    else:
        extent = everything.boxes.numpy()[order]
        low, high = (f.reduceat(extent, begins) for f in (np.minimum, np.maximum))
        boxes[several] = torch.from_numpy(np.concatenate([low[:, :2], high[:, 2:]], axis=1)[several])
    return replace(everything[best], boxes=boxes, masks=masks)


def _stand_ins(
    area: NDArray[np.int64], group: NDArray[np.int64], order: NDArray[np.intp], cut: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The best-scoring member of each group that its tile shows whole, (G,); -1 where the parts must be united.

    A lone detection stands for itself. A whole one that is small beside the largest piece is a fragment taken for an
    object.
    """
    num = int(group.max()) + 1
    largest = np.zeros(num, np.int64)
    np.maximum.at(largest, group, area)
    whole = order[~cut[order] & (area[order] >= WHOLE * largest[group[order]])]
    result = np.full(num, -1)
    result[group[whole[::-1]]] = whole[::-1]  # the last write is the best score
    lone = np.bincount(group)[group] == 1
    result[group[lone]] = np.flatnonzero(lone)
    return result


def _masks_of_groups(rle: RLE, group: NDArray[np.int64], stand_in: NDArray[np.int64]) -> RLE:
    """One mask per group: its stand-in's, or the union of its members', all unions in one go."""
    united = np.flatnonzero(stand_in < 0)
    number = np.full(len(stand_in), -1)
    number[united] = np.arange(len(united))
    owner = number[group][rle.runs.owner]
    inside = np.flatnonzero(owner >= 0)
    runs = Runs(owner[inside], rle.runs.start[inside], rle.runs.stop[inside])
    sequence = np.lexsort((runs.start, runs.owner))
    unions = RLE.from_runs(Runs(*(column[sequence] for column in runs)), len(united), rle.size)
    place = np.where(stand_in >= 0, stand_in, len(rle) + number)
    return RLE.cat([rle, unions])[place]


def _distinct(
    united: Instances, everything: Instances, group: NDArray[np.int64], cut: NDArray[np.bool_], views: Sequence[_View]
) -> NDArray[np.intp]:
    """Numbers of the groups that stay where tiles disagree: one tile sees two halves of what is one thing to another.

    Those that a tile shows whole are believed first, then those that more tiles see, then better scores.
    """
    whole = np.zeros(len(united), np.bool_)
    whole[group[~cut]] = True
    rank = np.empty(len(united), np.int64)
    rank[np.lexsort((-_scores(united), -np.bincount(group), ~whole))] = np.arange(len(united))
    ranked = [sorted(pair, key=lambda one: rank[one]) for pair in _lying_on_each_other(united, views)]
    tile = np.repeat(np.arange(len(views)), [len(view.instances) for view in views])
    gone: set[int] = set()
    for better, worse in sorted(ranked, key=lambda pair: (rank[pair[0]], rank[pair[1]])):
        if better not in gone and not _seen_together(everything, tile, group == better, group == worse):
            gone.add(worse)
    return np.array([number for number in range(len(united)) if number not in gone], np.intp)


def _lying_on_each_other(united: Instances, views: Sequence[_View]) -> set[tuple[int, int]]:
    """Pairs of one class whose masks overlap by more than :data:`DUPLICATE`."""
    assert united.masks is not None
    extent, labels, pairs = _extent(united), united.labels.numpy(), set()
    for view in views:  # not all with all: that would be as many numbers as objects squared
        near = np.flatnonzero(_reaches(extent, view.tile))
        masks = united.masks[near]
        first, second = np.nonzero(np.triu(masks.iou(masks) > DUPLICATE, 1))
        alike = labels[near[first]] == labels[near[second]]
        pairs |= {(int(a), int(b)) for a, b in zip(near[first[alike]], near[second[alike]], strict=True)}
    return pairs


def _seen_together(
    everything: Instances, tile: NDArray[np.intp], first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> bool:
    """Whether a tile has detections of both that lie on each other as well: then they are two things."""
    assert everything.masks is not None
    a, b = np.flatnonzero(first), np.flatnonzero(second)
    overlap = everything.masks[a].iou(everything.masks[b]) > DUPLICATE
    return bool((overlap & (tile[a][:, None] == tile[b][None])).any())


def _scores(instances: Instances) -> NDArray[np.float64]:
    if instances.scores is None:
        return np.zeros(len(instances))
    scores: NDArray[np.float64] = instances.scores.double().cpu().numpy()
    return scores
