"""DEXTR's points and windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.models.promptable.dextr import Window, bumps, extreme_candidates, extreme_points
from eachmask.structures import Prompts, UserError


def test_extreme_points_a_box_or_four_points():
    corners = [[10.5, 20.5], [50.5, 22.5], [30.5, 5.5], [31.5, 40.0]]
    size = (40, 60)
    expected = [[10, 20], [50, 22], [30, 5], [31, 39]]
    assert extreme_points(Prompts(size, extremes=[corners])).tolist() == expected
    assert extreme_points(Prompts(size, points=corners)).tolist() == expected
    boxed = extreme_points(Prompts(size, boxes=[[10, 5, 51, 40]]))
    assert boxed.tolist() == [[10, 22], [50, 22], [30, 5], [30, 39]]
    with pytest.raises(UserError, match="four extreme points"):
        extreme_points(Prompts(size, points=corners[:3]))


def test_a_window_may_leave_the_image_and_goes_back_to_its_place():
    window = Window.around(torch.tensor([[2, 3], [5, 8]]), 4)
    assert window == (-2, -1, 9, 12) and window.size == (14, 12)
    image = torch.arange(60.0).view(6, 10)
    cut = window.cut(image, beyond=-1)
    assert cut.shape == (14, 12) and cut[0, 0] == -1 and cut[1, 2] == 0 and cut[6, 11] == 59
    assert torch.equal(window.put(cut, (6, 10)), image)
    assert window.seen(torch.tensor([[2, 3]]), 24).tolist() == [[8, 6]]


def test_bumps_are_half_as_high_at_half_their_width():
    heat = bumps(torch.tensor([[10, 20], [30, 20]]), (40, 50), 10.0)
    assert heat[20, 10] == 1 and float(heat[20, 15]) == pytest.approx(0.5) and float(heat.max()) == 1


def test_candidates_are_near_the_extremes():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 8:20] = True
    left, right, top, bottom = extreme_candidates(mask, 1)
    assert set(left[:, 0]) == {8, 9} and set(right[:, 0]) == {18, 19}
    assert set(top[:, 1]) == {5, 6} and set(bottom[:, 1]) == {13, 14} and len(top) == 24
