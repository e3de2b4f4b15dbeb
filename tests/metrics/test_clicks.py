"""NoC and the loop of clicks."""

from __future__ import annotations

import numpy as np

from eachmask.metrics.clicks import Clicked, clicked, clicks_needed, iou, mean_curve, noc


def disc(size: int, row: int, column: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def test_clicking_ends_when_the_answer_is_good_enough():
    target = disc(40, 20, 20, 9) | disc(40, 20, 33, 4)

    def answer(clicks):
        found = np.zeros((40, 40), bool)
        for click in clicks:
            found |= disc(40, click.row, click.column, 9 if click.column < 28 else 4)
        return found

    result = clicked(answer, target, enough=0.95)
    assert len(result.clicks) == 2 and result.ious[0] < 0.9 <= result.ious[1]
    assert result.at(1) == result.ious[0] and result.at(20) == result.ious[1]


def test_an_answer_that_never_comes_takes_all_clicks():
    result = clicked(lambda clicks: np.zeros((20, 20), bool), disc(20, 10, 10, 5), max_clicks=4)
    assert len(set(result.clicks)) == 4 and set(result.ious) == {0.0}


def test_a_success_at_the_last_click_counts_among_those_that_took_all():
    assert clicks_needed([0.1, 0.9, 0.2], 0.9) == 2  # a later drop does not matter
    mean, std, most = noc([[0.5, 0.9], [0.5, 0.5]], 0.9, max_clicks=2)
    assert (mean, std, most) == (2.0, 0.0, 2)


def test_pixels_that_do_not_count_are_left_out():
    target = np.array([[1, 1, 0, -1]], np.int8)
    assert iou(np.array([[True, False, False, True]]), target) == 0.5
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0


def test_curves_stay_where_an_object_was_done():
    results = [Clicked((), (0.5, 0.9)), Clicked((), (0.7,))]
    assert np.allclose(mean_curve(results, 3), [0.6, 0.8, 0.8])
