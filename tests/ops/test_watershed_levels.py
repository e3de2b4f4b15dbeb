from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.ops.watershed_levels import cut, direction_loss, energy_loss, watershed_targets


def two_squares() -> np.ndarray:
    ids = np.zeros((40, 60), np.int32)
    ids[5:35, 5:30], ids[5:35, 30:55], ids[0:3, 0:3] = 1, 2, 3
    return ids


def test_targets_point_inwards_and_small_objects_have_none():
    found = watershed_targets(two_squares())
    assert found.distance[20, 5] == found.distance[20, 29] == 1 and found.level[20, 5] == 0
    assert found.level[20, 7] == 2 and found.unit_direction[:, 20, 6].tolist() == [1, 0]
    assert not found.distance[:3, :3].any() and not found.weight[1, 1]
    assert found.weight[20, 20] == pytest.approx(200 / np.sqrt(30 * 25))
    assert watershed_targets(np.ones((20, 20), np.int32)).distance[0, 0] == 1


def test_levels_cut_what_touches():
    ids = two_squares()
    level = watershed_targets(ids).level
    objects = cut(level, ids > 0, threshold=1, min_area=20, dilation=3)
    assert objects.max() == 2 and objects[20, 15] != objects[20, 45]
    assert cut(level, ids > 0, threshold=1, min_area=10**4, dilation=3).max() == 0


def test_what_is_right_costs_nothing():
    found = watershed_targets(two_squares())
    mask, weight = torch.from_numpy(two_squares() > 0).float(), torch.from_numpy(found.weight)
    direction = torch.from_numpy(found.direction)
    right = direction_loss(direction * 7, direction, mask, weight)
    wrong = direction_loss(-direction, direction, mask, weight)
    assert float(right) < 0.01 * float(wrong), "but for pixels in the middle, which have no direction"
    level = torch.from_numpy(found.level)
    logits = torch.nn.functional.one_hot(level.long(), 16).permute(2, 0, 1).float()
    assert float(energy_loss(logits * 30, level, mask, weight)) < 1e-3 < float(energy_loss(logits, level, mask, weight))
