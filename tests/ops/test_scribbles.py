"""Scribbles run through the middle of what is wrong, from one end to the other."""

from __future__ import annotations

import numpy as np

from eachmask.ops.scribbles import MIN_AREA, line_through, scribbles_on


def test_each_label_that_is_missing_is_drawn_over():
    target = np.zeros((60, 90), np.int64)
    target[10:30, 10:60], target[40:55, 20:80] = 3, 8
    found = target.copy()
    found[10:30, 10:35], found[2:8, 5:80] = 0, 8  # half of 3 is missing, and 8 is where nothing is
    drawn = {one.number: one.line for one in scribbles_on(found, target)}
    assert set(drawn) == {0, 3}
    for number, line in drawn.items():
        rows, columns = np.floor(line[:, 1]).astype(int), np.floor(line[:, 0]).astype(int)
        assert (target[rows, columns] == number).all() and (found[rows, columns] != number).all()
    assert np.ptp(drawn[0][:, 0]) > 50 and np.ptp(drawn[3][:, 0]) < 25


def test_what_nobody_labeled_is_not_drawn_over():
    target = np.full((40, 40), 255)
    target[10:30, 10:30] = 1
    assert [one.number for one in scribbles_on(np.zeros_like(target), target)] == [1]


def test_small_mistakes_are_left():
    region = np.zeros((20, 20), bool)
    region[:3, :3] = True
    assert region.sum() < MIN_AREA and line_through(region) is None and line_through(region & False) is None


def test_lines_follow_a_bent_region_to_both_ends():
    region = np.zeros((80, 80), bool)
    region[5:75, 5:15] = region[65:75, 5:75] = True
    line = line_through(region)
    ends = line[[0, -1]]
    assert ends[:, 1].min() < 20 and ends[:, 0].max() > 60, "from the top to the right"
    assert all(region[int(y), int(x)] for x, y in line)
    ring = np.hypot(*np.mgrid[-30:30, -30:30])
    assert line_through((ring < 25) & (ring > 15)) is not None, "without ends too"
    assert line_through(np.ones((1, 40), bool)) is not None, "as thin as a pixel"
