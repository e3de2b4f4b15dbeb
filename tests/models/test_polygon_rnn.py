"""Polygons in grids: targets, windows, and vertices that somebody has moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask import models
from eachmask.models.promptable.polygon_rnn import box_of_mask, sampled, widened


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return models.polygon_rnn_lite0(size=64, grid=16, max_vertices=10).eval()


def test_the_outline_of_a_rectangle_has_its_corners(model):
    mask = np.zeros((60, 80), bool)
    mask[16:48, 20:52] = True
    window = torch.tensor([4.0, 0, 68, 64])  # 16 cells of 4 px
    (row,) = model.outlines([mask], window[None])
    numbers = row.tolist()
    assert sorted(numbers[:4]) == sorted([4 * 16 + 4, 4 * 16 + 11, 11 * 16 + 4, 11 * 16 + 11])
    assert numbers[0] == 4 * 16 + 4 and numbers[4:] == [256]
    places = model.places_of(numbers[:4], window)
    assert model.cells_of(places.tolist(), window).tolist() == numbers[:4]
    assert (model.outlines([np.zeros((60, 80), bool)], window[None]) == -1).all()


def test_a_window_of_an_image():
    image = torch.arange(48.0).view(1, 1, 6, 8)
    assert torch.equal(sampled(image, torch.tensor([[2.0, 1, 6, 5]]), 4), image[:, :, 1:5, 2:6])
    assert widened(torch.tensor([10.0, 20, 20, 40]), 0.1).tolist() == pytest.approx([9, 18, 21, 42])
    mask = np.zeros((6, 8), bool)
    assert box_of_mask(mask).tolist() == [0, 0, 8, 6]
    mask[2, 3] = True
    assert box_of_mask(mask).tolist() == [3, 2, 4, 3]


def test_moved_vertices_stay_where_they_were_put(model):
    image, box = torch.randn(3, 60, 80), torch.tensor([20.0, 16, 52, 48])
    drawn = model.polygon(image, box)
    assert 1 <= len(drawn) <= 10
    moved = [(21.5, 17.5), (50.0, 18.0)]
    again = model.polygon(image, box, corrected=moved)
    assert again[:2].tolist() == [list(place) for place in moved]
    assert torch.equal(model.polygon(image, box, corrected=moved), again)
