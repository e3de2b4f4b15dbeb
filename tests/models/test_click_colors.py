"""What colors say to the ``clicks`` network."""

from __future__ import annotations

import torch

from eachmask.models.promptable.click_colors import color_maps, color_odds


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Two questions about a red square on gray, (2, 3, 32, 32), and the square (32, 32)."""
    inside = torch.zeros(32, 32)
    inside[8:24, 8:24] = 1
    colors = torch.where(inside.bool(), torch.tensor([0.8, -0.6, -0.6])[:, None, None], torch.zeros(3, 32, 32))
    return colors.expand(2, -1, -1, -1), inside


def test_places_are_alike_to_what_was_clicked():
    colors, inside = scene()
    clicked = torch.stack([colors[0, :, 10, 10], colors[0, :, 0, 0]], 1).expand(2, -1, -1)
    signs = torch.tensor([[1, 0], [1, -1]])
    found = color_maps(colors, clicked, signs, inside.expand(2, -1, -1), torch.tensor([True, False]))
    on, off, odds = found.unbind(1)
    assert (on[0][inside == 1] > 0.99).all() and (on[0][inside == 0] < 0.05).all()
    assert (off[0][inside == 0] > 0.99).all() and (off[0][inside == 1] < 0.05).all()
    assert (off[1] == 0).all() and (odds[1] == 0).all(), "neither a click beside it nor an answer before"
    assert (odds[0][inside == 1] > 0.9).all() and (odds[0][inside == 0] < -0.9).all()


def test_a_rough_answer_is_enough_to_tell_colors_apart():
    colors, inside = scene()
    rough = torch.zeros(32, 32)
    rough[12:30, 12:30] = 1  # misses a part and takes in some of the ground
    odds = color_odds(colors, rough.expand(2, -1, -1))
    assert (odds[0][inside == 1] > 0.2).all() and (odds[0][inside == 0] < -0.2).all()
    nothing = color_odds(colors, torch.zeros(2, 32, 32))
    assert torch.isfinite(nothing).all() and (nothing.abs() <= 1).all()
