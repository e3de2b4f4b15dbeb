from __future__ import annotations

import numpy as np
import pytest

from eachmask.metrics.matching import Counts, count_matches, matched_pairs, matching_scores
from eachmask.structures import RLE


def test_empty_against_empty_is_perfect():
    counts = count_matches(np.zeros((0, 0)), 0.5)
    assert counts == Counts() and counts.score == 1 and counts.precision == 1 and counts.recall == 1


def test_nothing_found_and_nothing_there():
    assert count_matches(np.zeros((0, 3)), 0.5) == Counts(0, 0, 3)
    assert count_matches(np.zeros((2, 0)), 0.5) == Counts(0, 2, 0)


def test_threshold_is_inclusive():
    assert count_matches(np.array([[0.5]]), 0.5).true_positives == 1
    assert count_matches(np.array([[0.499999]]), 0.5).true_positives == 0


def test_two_predictions_of_one_object_are_one_hit_and_one_false_positive():
    assert count_matches(np.array([[0.9], [0.6]]), 0.5) == Counts(1, 1, 0)


def test_number_of_pairs_comes_before_their_iou():
    # Taking the best pair first (0.9) would leave the second object without a partner.
    iou = np.array([[0.9, 0.5], [0.6, 0.0]])
    assert count_matches(iou, 0.5) == Counts(2, 0, 0)


def test_pairs_are_those_that_are_counted():
    iou = np.array([[0.9, 0.5], [0.6, 0.0]])
    assert [side.tolist() for side in matched_pairs(iou, 0.5)] == [[0, 1], [1, 0]]
    assert [side.tolist() for side in matched_pairs(iou, 0.7)] == [[0], [0]]
    assert [side.tolist() for side in matched_pairs(iou, 0.95)] == [[], []]


def test_score_is_tp_over_all():
    counts = Counts(6, 1, 3)
    assert counts.score == pytest.approx(0.6)
    assert counts.precision == pytest.approx(6 / 7) and counts.recall == pytest.approx(6 / 9)


def test_images_are_pooled():
    label = np.zeros((20, 20), int)
    label[2:8, 2:8], label[10:18, 10:18] = 1, 2
    one = np.where(label == 1, 1, 0)
    both, first = RLE.from_label_map(label), RLE.from_label_map(one)
    pairs = [(both, both), (first, both)]
    assert matching_scores(pairs, [0.5])[0.5] == Counts(3, 0, 1)


def test_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        iou = rng.random((4, 3)) * (rng.random((4, 3)) > 0.4)
        best = max(
            sum(iou[r, c] >= 0.5 for c, r in enumerate(rows))
            for rows in __import__("itertools").permutations(range(4), 3)
        )
        assert count_matches(iou, 0.5) == Counts(best, 4 - best, 3 - best)
