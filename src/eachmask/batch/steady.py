"""Tracks that do not flicker: short gaps are filled, and each mask is what most of three frames say.

The masks of the frames before and after are moved so that the middles of their boxes meet that of the frame's own mask:
what only one of the three has is noise. A gap is filled with the nearer one of the masks around it, moved along the
line between the two, as ByteTrack fills its gaps (arXiv 2110.06864, section 4.2).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.batch.track_files import TrackedFrame
from eachmask.ops.linking import centers
from eachmask.structures import RLE, Instances

MAX_FILLED = 3
"""Frames of a gap that is filled."""


class _Seen(NamedTuple):
    mask: RLE  # of one object
    label: int
    score: float


def steadied(
    frame: Callable[[int], TrackedFrame], num: int, seen: Mapping[int, Sequence[int]]
) -> Iterator[TrackedFrame]:
    """The frames of a video, one after the other; a few of them are in memory at a time.

    Args:
        frame: what was found in a frame, by its number.
        num: frames.
        seen: of each track the frames in which it was found, ascending.
    """
    gaps: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, frames in seen.items():
        for a, b in itertools.pairwise(frames):
            if b - a <= MAX_FILLED + 1:
                for t in range(a + 1, b):
                    gaps[t].append((number, a, b))

    @lru_cache(2 * MAX_FILLED + 3)
    def found(t: int) -> dict[int, _Seen]:
        return _objects(frame(t).found) if 0 <= t < num else {}

    @lru_cache(3)
    def filled(t: int) -> dict[int, _Seen]:
        more = {number: _between(found(a)[number], found(b)[number], (t - a) / (b - a)) for number, a, b in gaps[t]}
        return found(t) | more

    for t in range(num):
        before, now, after = (filled(place) for place in (t - 1, t, t + 1))
        objects = {number: one._replace(mask=_most(one.mask, before.get(number), after.get(number)))
                   for number, one in now.items()}  # fmt: skip
        seconds, own = frame(t)
        yield TrackedFrame(seconds, _together(objects, own))


def _objects(found: Instances) -> dict[int, _Seen]:
    assert found.masks is not None and found.scores is not None and found.track_ids is not None
    masks, rows = found.masks.to_rle(), zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    return {
        number: _Seen(masks[place : place + 1], label, score)
        for place, (number, (label, score)) in enumerate(zip(found.track_ids.tolist(), rows, strict=True))
    }


def _between(before: _Seen, after: _Seen, share: float) -> _Seen:
    """Where an object is at a share of the way, 0..1."""
    way = (centers(after.mask) - centers(before.mask))[0]
    mask = _moved(before.mask, way * share) if share <= 0.5 else _moved(after.mask, -way * (1 - share))
    return _Seen(mask, before.label, (before.score + after.score) / 2)


def _most(mask: RLE, *others: _Seen | None) -> RLE:
    """What at least two of three masks have, moved onto the first; the first where one of them is missing."""
    known = [_moved(one.mask, (centers(mask) - centers(one.mask))[0]) for one in others if one is not None]
    if len(known) < 2:
        return mask
    most = RLE.from_bitmaps(RLE.cat([mask, *known]).decode().sum(0)[None] >= 2)
    return most if most.area()[0] else mask


def _moved(mask: RLE, step: NDArray[np.float64]) -> RLE:
    dx, dy = np.rint(step).astype(int).tolist()
    return mask.shift(dx, dy, mask.size) if dx or dy else mask


def _together(objects: Mapping[int, _Seen], own: Instances) -> Instances:
    """As the objects of a frame."""
    if not objects:
        return own[:0]
    masks = RLE.cat([one.mask for one in objects.values()])
    return replace(
        own, masks=masks, boxes=torch.from_numpy(masks.boxes()),
        labels=torch.tensor([one.label for one in objects.values()], dtype=torch.int64),
        scores=torch.tensor([one.score for one in objects.values()]),
        track_ids=torch.tensor(list(objects), dtype=torch.int64),
        crowd=torch.zeros(len(objects), dtype=torch.bool),
    )  # fmt: skip
