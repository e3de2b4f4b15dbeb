"""Objects keep their numbers: when they move, hide, score low, cross or come back."""

from __future__ import annotations

import numpy as np

from eachmask.ops.tracking import Tracker, TrackerConfig, joined_looks, looks_of
from eachmask.structures import RLE


def masks(*places: tuple[int, int]) -> RLE:
    maps = np.zeros((len(places), 40, 80), bool)
    for mask, (x, y) in zip(maps, places, strict=True):
        mask[y : y + 8, x : x + 8] = True
    return RLE.from_bitmaps(maps)


def looks(*kinds: int) -> np.ndarray:
    return np.eye(4)[list(kinds)].reshape(-1, 4)


def test_moving_objects_keep_their_numbers():
    tracker, first = Tracker(), np.array([1, 2])
    for t in range(8):
        order = [0, 1] if t % 2 else [1, 0]
        places = [(5 + 3 * t, 5), (60 - 3 * t, 25)]
        numbers = tracker.update(masks(*(places[i] for i in order)), [0.9, 0.9], looks(*order))
        first = numbers if t == 0 else first
        assert numbers[order.index(0)] == first[1] and numbers[order.index(1)] == first[0]


def test_velocity_carries_over_a_gap():
    tracker = Tracker(TrackerConfig(min_looks=2))
    for t in range(5):
        assert tracker.update(masks((5 + 4 * t, 5)), [0.9], looks(0)).tolist() == [1]
    for _ in range(3):
        tracker.update(masks(), [], looks())
    assert tracker.update(masks((37, 5)), [0.9], looks(0)).tolist() == [1]
    assert Tracker().update(masks((37, 5)), [0.9], looks(0)).tolist() == [1]


def test_low_scores_go_on_with_tracks_and_begin_none():
    tracker = Tracker()
    assert tracker.update(masks((5, 5), (50, 20)), [0.9, 0.3], looks(0, 1)).tolist() == [1, 0]
    assert tracker.update(masks((6, 5), (50, 20)), [0.2, 0.3], looks(0, 1)).tolist() == [1, 0]


def test_what_comes_back_elsewhere_is_known_by_its_looks():
    for kind, number in ((0, 1), (1, 2)):
        tracker = Tracker()
        tracker.update(masks((5, 5)), [0.9], looks(0))
        tracker.update(masks(), [], looks())
        assert tracker.update(masks((60, 30)), [0.9], looks(kind)).tolist() == [number]


def test_old_tracks_are_forgotten():
    tracker = Tracker(TrackerConfig(max_gap=2))
    for t in range(50):
        tracker.update(masks((5 if t % 10 == 0 else 60, 5)), [0.9], looks(t % 4))
        assert len(tracker.tracks) <= 4, "memory does not grow with the number of frames"


def test_looks_are_shares_of_colors():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = (255, 0, 0)
    found = looks_of(image, masks((5, 5), (60, 5), (36, 5)))
    alike = found @ found.T
    assert np.allclose(np.diag(alike), 1) and alike[0, 1] == 0 and np.isclose(alike[0, 2], np.sqrt(0.5))


def test_of_two_that_overlap_alike_looks_decide():
    """Two objects that cross: each new mask overlaps with both tracks."""
    for kinds, numbers in (((0, 1), [1, 2]), ((1, 0), [2, 1])):
        tracker = Tracker(TrackerConfig(min_looks=2))
        tracker.update(masks((20, 5), (24, 5)), [0.9, 0.9], looks(0, 1))
        assert tracker.update(masks((22, 4), (22, 6)), [0.9, 0.9], looks(*kinds)).tolist() == numbers


def test_features_tell_apart_what_has_the_same_colors():
    colors = np.full((2, 4), 0.5)
    found = joined_looks(colors, np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert np.allclose(found @ found.T, [[1, 0.5], [0.5, 1]])
    tracker = Tracker()
    tracker.update(masks((5, 5)), [0.9], found[:1])
    tracker.update(masks(), [], found[:0])
    assert tracker.update(masks((60, 30)), [0.9], found[1:]).tolist() == [2]
