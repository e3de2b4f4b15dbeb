"""Tracks do not flicker: gaps are filled, and what one frame alone says is noise."""

from __future__ import annotations

import numpy as np
import torch

from eachmask.batch.steady import MAX_FILLED, steadied
from eachmask.batch.track_files import TrackedFrame
from eachmask.structures import RLE, Instances


def frame(t: int, present: bool = True, hole: bool = False) -> TrackedFrame:
    """A square that moves by two px a frame, with a hole in some."""
    maps = np.zeros((1, 40, 80), bool)
    maps[0, 10:20, 5 + 2 * t : 15 + 2 * t] = True
    if hole:
        maps[0, 13:17, 8 + 2 * t : 12 + 2 * t] = False
    masks = RLE.from_bitmaps(maps)
    found = Instances((40, 80), torch.from_numpy(masks.boxes()), masks, torch.tensor([1]), torch.tensor([0.8]),
                      track_ids=torch.tensor([7]))  # fmt: skip
    return TrackedFrame(t / 25, found if present else found[:0])


def test_a_hole_in_one_frame_is_closed():
    frames = [frame(t, hole=t == 3) for t in range(6)]
    steady = list(steadied(frames.__getitem__, 6, {7: list(range(6))}))
    for t, (seconds, found) in enumerate(steady):
        assert seconds == t / 25 and found.track_ids.tolist() == [7] and found.labels.tolist() == [1]
        assert found.masks.area().tolist() == [100], t
        assert found.boxes[0].tolist() == frames[t].found.boxes[0].tolist(), "it moves as before"


def test_short_gaps_are_filled_and_long_ones_are_not():
    for gap, filled in ((1, True), (MAX_FILLED, True), (MAX_FILLED + 1, False)):
        there = [t for t in range(10) if not 2 <= t < 2 + gap]
        frames = [frame(t, t in there) for t in range(10)]
        steady = list(steadied(frames.__getitem__, 10, {7: there}))
        for t in range(2, 2 + gap):
            found = steady[t].found
            assert len(found) == filled
            if filled:
                assert found.boxes[0].tolist() == frame(t).found.boxes[0].tolist(), "where it was on its way"
                assert abs(float(found.scores[0]) - 0.8) < 1e-6


def test_frames_without_objects():
    frames = [frame(t, False) for t in range(3)]
    assert [len(found) for _, found in steadied(frames.__getitem__, 3, {})] == [0, 0, 0]
