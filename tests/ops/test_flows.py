from __future__ import annotations

import numpy as np

from eachmask.ops.flows import flow_errors, flows_of, follow, masks_of_flows, object_centers, renumbered, without_holes


def bent() -> np.ndarray:
    """An L, whose mean pixel is not in it, beside a disc that touches it."""
    ys, xs = np.mgrid[:60, :80]
    ids = np.zeros((60, 80), np.int32)
    ids[5:50, 5:13], ids[42:50, 5:45] = 1, 1
    ids[((ys - 25) ** 2 + (xs - 26) ** 2 <= 144) & (ids == 0)] = 2
    return ids


def test_centers_lie_within_their_objects():
    ids = bent()
    centers = object_centers(ids)
    assert ids[tuple(centers.T)].tolist() == [1, 2]
    assert ids[np.rint(np.mean(np.nonzero(ids == 1), axis=1)).astype(int)[0], 0] == 0


def test_flows_lead_around_corners_to_one_place():
    ids = bent()
    flow = flows_of(ids)
    assert np.allclose(np.hypot(*flow)[ids > 0], 1, atol=1e-5) and not flow[:, ids == 0].any()
    start = np.stack(np.nonzero(ids == 1))
    ends = follow(flow, start, 200)
    assert np.hypot(*(ends - ends.mean(1, keepdims=True))).max() < 4


def test_the_objects_come_back():
    ids = bent()
    flow = 5 * flows_of(ids)
    found = masks_of_flows(flow, np.where(ids > 0, 4.0, -4.0), min_area=10)
    assert found.max() == 2
    for number in (1, 2):
        own = ids == number
        best = np.bincount(found[own]).argmax()
        assert ((found == best) & own).sum() / ((found == best) | own).sum() > 0.95
    assert (flow_errors(ids, flow) < 1e-9).all() and flow_errors(ids, -flow)[0] > 1


def test_objects_that_contradict_their_flows_go():
    ids = bent()
    flow = 5 * flows_of(ids)
    logits = np.where(ids > 0, 4.0, -4.0)
    wrong = np.where(ids == 2, np.roll(flow, 1, axis=0) * [[[1]], [[-1]]], flow)
    assert masks_of_flows(wrong, logits, max_flow_error=0).max() >= masks_of_flows(wrong, logits).max()


def test_nothing_stays_nothing():
    assert not masks_of_flows(np.zeros((2, 9, 7)), np.full((9, 7), -1.0)).any()
    assert not flows_of(np.zeros((4, 4), np.int32)).any()


def test_numbers_and_holes():
    ids = np.zeros((10, 12), np.int32)
    ids[0:2, 0:2], ids[4:9, 4:9], ids[6, 6] = 7, 3, 0
    assert renumbered(ids)[0, 0] == 1 and renumbered(ids)[5, 5] == 2
    kept = without_holes(ids, 5)
    assert kept.max() == 1 and kept[6, 6] == 1 and not kept[0, 0]


def test_an_object_in_the_hole_of_another_goes_and_leaves_no_gap_in_the_numbers():
    ids = np.zeros((7, 10), np.int32)
    ids[1:6, 1:6], ids[2:5, 2:5], ids[3, 3], ids[1:6, 8] = 1, 0, 2, 3
    found = without_holes(ids, min_area=1)
    assert (found[1:6, 1:6] == 1).all() and (found[1:6, 8] == 2).all() and found.max() == 2
