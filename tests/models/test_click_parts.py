from __future__ import annotations

import torch

from eachmask.models.promptable.click_parts import connected_to_clicks


def asked(*clicks: tuple[float, float, int]) -> torch.Tensor:
    """Two squares in a window of 8 x 8 cells at (10, 20) that spans 80 x 160 px; what is left of them."""
    maps = torch.full((1, 8, 8), 0.2)
    maps[0, 0:3, 0:3], maps[0, 5:8, 5:8] = 0.9, 0.8
    points = torch.tensor([[[x, y] for x, y, _ in clicks]]).reshape(1, len(clicks), 2)
    signs = torch.tensor([[sign for *_, sign in clicks]], dtype=torch.int64).reshape(1, len(clicks))
    left = connected_to_clicks(maps, torch.tensor([[10.0, 20.0, 90.0, 180.0]]), points, signs, 0.5)
    assert float(maps[0, 0, 0]) == float(torch.tensor(0.9)), "what was given stays"
    assert torch.equal(left[maps < 0.5], maps[maps < 0.5]), "what is no mask stays"
    return torch.stack([left[0, 1, 1] > 0.5, left[0, 6, 6] > 0.5])


def test_parts_without_a_click_go():
    assert asked((25.0, 50.0, 1)).tolist() == [True, False]
    assert asked((75.0, 150.0, 1)).tolist() == [False, True]
    assert asked((25.0, 50.0, 1), (75.0, 150.0, 1)).tolist() == [True, True]


def test_an_answer_stays_where_no_click_says_which_part_is_meant():
    assert asked().tolist() == [True, True]
    assert asked((25.0, 50.0, 0)).tolist() == [True, True], "a click beside the object"
    assert asked((25.0, 50.0, -1)).tolist() == [True, True], "none"
    assert asked((55.0, 100.0, 1)).tolist() == [True, True], "between the parts"
    assert asked((300.0, 5.0, 1)).tolist() == [True, True], "outside of the window"
