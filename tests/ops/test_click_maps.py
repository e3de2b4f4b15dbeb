"""Clicks as maps, and the window that a network looks through."""

from __future__ import annotations

import pytest
import torch

from eachmask.ops.click_maps import Clicks, Window, clicks_of, disks, distances
from eachmask.ops.losses import balanced_cross_entropy, normalized_focal
from eachmask.ops.simulated_clicks import first_clicks, next_click
from eachmask.structures import Prompts


def test_points_become_pixels_and_scribbles_clicks_along_them():
    prompts = Prompts((20, 60), points=[[60, 20], [3.7, 5.2]], signs=[True, False], scribbles=[[[0, 2], [50, 2]]])
    clicks = clicks_of(prompts)
    assert clicks.places[0, :2].tolist() == [[19, 59], [5, 3]], "the far border belongs to the last pixel"
    assert clicks.signs[0].tolist() == [1, -1, *[1] * 6]
    assert clicks.places[0, 2:, 1].tolist() == [0, 10, 20, 30, 40, 50] and (clicks.places[0, 2:, 0] == 2).all()


def test_a_disk_has_81_pixels_and_what_is_missing_none():
    clicks = Clicks(torch.tensor([[[10.0, 12.0], [-1, -1]]]), torch.tensor([[1, 0]]))
    on, beside = disks(clicks, (30, 30))[0]
    assert int(on.sum()) == 81 and on[10, 17] == 1 and on[10, 18] == 0 and not beside.any()
    near, far = distances(clicks, (30, 30), radius=20)[0]
    assert near[10, 12] == 0 and float(near[10, 22]) == pytest.approx(torch.tensor(1.0).tanh().item())
    assert (far == 1).all()


def test_clicks_in_a_window_and_in_the_mirror():
    clicks = Clicks(torch.tensor([[[12.0, 25.0]]]), torch.tensor([[1]]))
    window = Window(top=10, bottom=19, left=20, right=39)
    assert clicks.seen_through(window, (20, 60)).places[0, 0].tolist() == [4, 15]
    assert clicks.flip(40).places[0, 0].tolist() == [12, 14]
    assert window.holds(clicks) and not window.holds(Clicks(torch.tensor([[[19.0, 25.0]]]), torch.tensor([[1]])))


def test_a_window_is_as_large_as_asked_and_stays_in_the_image():
    inside = torch.zeros(100, 100, dtype=torch.bool)
    assert Window.around(inside, Clicks(torch.zeros(1, 0, 2), torch.zeros(1, 0))) is None
    inside[40:50, 90:100] = True
    tight = Window.around(inside, Clicks(torch.tensor([[[30.0, 95.0]]]), torch.tensor([[-1]])))
    assert tight == Window(40, 49, 90, 99), "clicks beside the object do not count"
    wide = tight.expanded(1.0, 40, (100, 100))
    assert (wide.top, wide.bottom, wide.left, wide.right) == (24, 64, 74, 99)


def test_normalized_focal_loss_weighs_pixels_to_their_number():
    logits = torch.tensor([[[2.0, -1.0], [0.5, 3.0]]])
    targets = torch.tensor([[[1.0, 0.0], [1.0, -1.0]]])
    p = torch.tensor([2.0, 1.0, 0.5]).sigmoid()  # of what is right
    weight = (1 - p) ** 2
    expected = -(0.5 * weight * 3 / weight.sum() * p.log()).sum() / 3
    assert float(normalized_focal(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
    nothing = normalized_focal(logits.requires_grad_(), torch.full_like(targets, -1))
    nothing.backward()
    assert float(nothing.detach()) == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_simulated_clicks_lie_where_they_say():
    torch.manual_seed(0)
    targets = torch.zeros(2, 40, 40)
    targets[0, 10:30, 10:30] = 1
    targets[1] = -1
    clicks = first_clicks(targets, most=3)
    assert (clicks.signs[1] == 0).all(), "nothing is known there"
    for place, sign in zip(clicks.places[0].long(), clicks.signs[0].tolist(), strict=True):
        assert sign == 0 or (targets[0, place[0], place[1]] == 1) == (sign == 1)
    assert (clicks.signs[0] == 1).any()
    found = targets == 1
    found[0, 10:30, 10:22] = False  # missing
    more = next_click(found, targets, clicks)
    row, column = more.places[0, -1].long().tolist()
    assert more.signs[0, -1] == 1 and 10 <= column < 22 and 10 <= row < 30
    surplus = torch.zeros_like(found)
    surplus[0, :, :] = True
    assert next_click(surplus, targets, clicks).signs[0, -1] == -1
    assert next_click(targets == 1, targets, clicks).signs.shape == clicks.signs.shape, "all is right: no click"


def test_balanced_cross_entropy_weighs_object_and_background_alike():
    logits = torch.tensor([[[2.0, -1.0, 0.3, 3.0]]])
    targets = torch.tensor([[[1.0, 0.0, 0.0, -1.0]]])
    right = torch.tensor([2.0, 1.0, -0.3]).sigmoid().log()
    expected = -(2 / 3 * right[0] + 1 / 3 * (right[1] + right[2])) / 3
    assert float(balanced_cross_entropy(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
