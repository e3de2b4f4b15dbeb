"""Objects of consecutive pages that are one: over the slices of a stack, or over time.

Page by page, objects are matched one to one with those that were there before: by the largest sum of IoU, then, if a
distance is allowed, what is left by the smallest sum of distances (Hungarian method both times). Nothing splits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from eachmask.structures import Masks, UserError


def link(
    pages: Sequence[Masks], min_iou: float = 0.1, max_distance: float | None = None, max_gap: int = 0
) -> list[np.ndarray]:
    """Of each page (N,) int64 tracks from 1, in order of their first appearance.

    Args:
        pages: objects of each page, all of one size.
        min_iou: least overlap of what is one object.
        max_distance: largest distance of the centers of boxes, px, of what overlaps less; None: no such links.
        max_gap: pages that an object may be missing.

    Raises:
        UserError: pages differ in size.

    >>> from eachmask.structures import RLE
    >>> def page(*columns):
    ...     masks = np.zeros((len(columns), 4, 12), bool)
    ...     for mask, column in zip(masks, columns):
    ...         mask[:, column : column + 4] = True
    ...     return RLE.from_bitmaps(masks)
    >>> [tracks.tolist() for tracks in link([page(0, 8), page(7, 1), page(2)])]
    [[1, 2], [2, 1], [1]]
    """
    result: list[np.ndarray] = []
    seen: dict[int, tuple[int, int]] = {}  # track -> page where it was seen last, which object there
    num = 0
    for page, masks in enumerate(pages):
        if masks.size != pages[0].size:
            raise UserError(
                f"page {page + 1} is {masks.size[1]} x {masks.size[0]}, the first one is not: link it apart"
            )
        own = np.zeros(len(masks), np.int64)
        for back in range(1, max_gap + 2):  # what was seen last has the first choice
            tracks = [track for track, (last, _) in seen.items() if last == page - back and track not in own]
            free = np.flatnonzero(own == 0)
            if tracks and len(free):
                before = pages[page - back][np.array([seen[track][1] for track in tracks])]
                for old, new in pairs(before, masks[free], min_iou, max_distance):
                    own[free[new]] = tracks[old]
        fresh = own == 0
        own[fresh] = num + 1 + np.arange(fresh.sum())
        num += int(fresh.sum())
        seen |= {int(track): (page, i) for i, track in enumerate(own)}
        result.append(own)
    return result


def pairs(before: Masks, after: Masks, min_iou: float, max_distance: float | None) -> list[tuple[int, int]]:
    """(old, new) of what is one object.

    >>> from eachmask.structures import RLE
    >>> masks = np.zeros((2, 4, 8), bool)
    >>> masks[0, :, :4] = masks[1, :, 4:] = True
    >>> both = RLE.from_bitmaps(masks)
    >>> pairs(both, both[::-1], 0.5, None)
    [(0, 1), (1, 0)]
    """
    iou = before.iou(after)
    rows, columns = linear_sum_assignment(np.where(iou >= min_iou, iou, 0), maximize=True)
    found = [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if iou[a, b] >= max(min_iou, 1e-9)]
    if max_distance is None:
        return found
    old = np.setdiff1d(np.arange(len(before)), [a for a, _ in found])
    new = np.setdiff1d(np.arange(len(after)), [b for _, b in found])
    apart = cdist(centers(before)[old], centers(after)[new])
    allowed = apart <= max_distance
    rows, columns = linear_sum_assignment(np.where(allowed, apart, 1e9))
    return found + [(int(old[a]), int(new[b])) for a, b in zip(rows, columns, strict=True) if allowed[a, b]]


def centers(masks: Masks) -> np.ndarray:
    """(N, 2) x and y of the middle of each box, px.

    >>> from eachmask.structures import RLE
    >>> mask = np.zeros((1, 4, 8), bool)
    >>> mask[0, :2, :4] = True
    >>> centers(RLE.from_bitmaps(mask)).tolist()
    [[2.0, 1.0]]
    """
    boxes = masks.boxes()
    result: np.ndarray = (boxes[:, :2] + boxes[:, 2:]) / 2
    return result
