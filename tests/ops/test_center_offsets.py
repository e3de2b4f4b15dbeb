"""Centers of things, and the pixels that point to them."""

from __future__ import annotations

import torch

from eachmask.ops.center_offsets import center_targets, find_centers, nearest_center
from eachmask.structures import PanopticMap, Segment


def scene() -> PanopticMap:
    ids = torch.ones(20, 30, dtype=torch.int32)
    ids[2:7, 3:8], ids[10:16, 20:28] = 4, 9
    return PanopticMap(ids, (Segment(1, 0), Segment(4, 1), Segment(9, 1, crowd=True)))


def test_targets_lead_every_pixel_to_its_center():
    learnt = center_targets(scene(), [1], (24, 32), sigma=2.0, small_area=30)
    assert learnt.heat.shape == (24, 32) and float(learnt.heat[4, 5]) == 1.0
    assert learnt.offsets[:, 2, 3].tolist() == [2.0, 2.0] and learnt.offsets[:, 6, 7].tolist() == [-2.0, -2.0]
    assert int(learnt.inside.sum()) == 25, "things that are no crowd"
    assert int(learnt.known.sum()) == 20 * 30 - 48, "all but the crowd and the padding"
    assert int(learnt.small.sum()) == 25, "the crowd has 48 px"
    ids = nearest_center(learnt.inside, learnt.offsets, find_centers(learnt.heat, 0.5, 7, 10))
    assert torch.equal(ids > 0, learnt.inside) and len(ids[learnt.inside].unique()) == 1


def test_the_best_centers_are_kept_and_none_gives_nothing():
    heat = torch.zeros(9, 30)
    heat[4, 3], heat[4, 12], heat[4, 22] = 0.9, 0.5, 0.7
    assert find_centers(heat, 0.1, 7, 3).tolist() == [[4, 3], [4, 22]], "above the third highest"
    assert find_centers(heat, 0.6, 7, 10).tolist() == [[4, 3], [4, 22]]
    none = find_centers(torch.zeros(9, 30), 0.1, 7, 10)
    assert not nearest_center(torch.ones(9, 30, dtype=torch.bool), torch.zeros(2, 9, 30), none).any()
