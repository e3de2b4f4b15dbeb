"""J and F on images small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eachmask.metrics import davis
from eachmask.structures import UserError


def square(left: int, label: int = 1) -> np.ndarray:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, left : left + 10] = label
    return labels


def test_j_and_f():
    a, b = square(5) == 1, square(10) == 1
    assert davis.region_j(a, b) == pytest.approx(50 / 150) and davis.contour_f(a, a) == 1
    assert davis.contour_f(a, b, 1) < 0.6 < davis.contour_f(a, b, 5) == 1
    nothing = np.zeros_like(a)
    assert davis.region_j(nothing, nothing) == davis.contour_f(nothing, nothing) == 1
    assert davis.region_j(nothing, a) == davis.contour_f(nothing, a) == davis.contour_f(a, nothing) == 0


def test_first_and_last_frame_do_not_count():
    target = [square(5), square(6), square(7), square(8)]
    found = [square(15), square(6), square(7), square(15)]
    scores = davis.semi_supervised(found, target)
    assert scores.j.tolist() == [[1, 1]]
    assert davis.summary([scores])["J&F-Mean"] == 1


def test_what_nobody_named_is_matched():
    target = [square(5), square(6), square(7)]
    found = [square(5 + t, 4) + square(18, 2) for t in range(3)]
    scores = davis.unsupervised(found, target)
    assert scores.results.tolist() == [4] and (scores.j == 1).all() and scores.j.shape == (1, 3)


def test_decay_is_first_minus_last_quarter():
    mean, recall, decay = davis.statistics(np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]))
    assert mean == pytest.approx(0.55) and recall == 0.5
    assert decay == pytest.approx(np.mean([0.9, 0.8, 0.7]) - np.mean([0.4, 0.3, 0.2]))


@pytest.mark.parametrize(
    ("found", "target", "word"),
    [
        ([square(5)] * 3, [square(5)] * 4, "numbers of frames"),
        ([square(5)[:10]] * 3, [square(5)] * 3, "frame 1"),
        ([square(5, 2)] * 3, [square(5)] * 3, "object 2"),
        ([square(5)] * 2, [square(5)] * 2, "three frames"),
    ],
)
def test_nonsense_is_refused(found, target, word):
    with pytest.raises(UserError, match=word):
        davis.semi_supervised(found, target)
