"""Panoptic quality of maps against plain sets of pixels: made maps with void, crowds and a class that is nowhere."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from eachmask.metrics.panoptic_maps import map_quality
from eachmask.metrics.panoptic_quality import mean_quality
from eachmask.structures import Category, PanopticMap, Segment

CLASSES = tuple(Category(i + 1, f"class {i}", is_thing=i < 3) for i in range(6))


def made(seed: int) -> tuple[PanopticMap, PanopticMap]:
    """Blocks of segments with void and crowds; the prediction is shifted, partly of other classes, with void too."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 9, (4, 5))
    true = np.kron(blocks, np.ones((7, 6), int))
    found = np.roll(true, int(rng.integers(0, 4)), axis=int(rng.integers(0, 2)))
    found = np.where(rng.random(found.shape) < 0.05, 0, found)
    kinds = rng.integers(0, 5, 9)  # the last class is nowhere
    guessed = np.where(rng.random(9) < 0.25, rng.integers(0, 5, 9), kinds)
    crowd = rng.random(9) < 0.25

    def map_of(ids: np.ndarray, labels: np.ndarray, crowds: np.ndarray) -> PanopticMap:
        segments = tuple(Segment(int(i), int(labels[i]), crowd=bool(crowds[i])) for i in np.unique(ids) if i)
        return PanopticMap(torch.from_numpy(ids), segments, CLASSES)

    return map_of(found, guessed, np.zeros(9, bool)), map_of(true, kinds, crowd)


def pixels_of(seen: PanopticMap) -> dict[int, set[tuple[int, int]]]:
    result = defaultdict(set)
    for place, number in np.ndenumerate(seen.ids.numpy()):
        result[int(number)].add(place)
    return result


def by_sets(pairs) -> dict[int, list[float]]:
    """Class -> sum of IoU, matched, false, missed."""
    counts = defaultdict(lambda: [0.0, 0, 0, 0])
    for found, target in pairs:
        mine, theirs = pixels_of(found), pixels_of(target)
        void, taken, hit = theirs[0], set(), set()
        for segment in target.segments:
            for guess in found.segments:
                if segment.crowd or segment.label != guess.label:
                    continue
                a, b = mine[guess.id], theirs[segment.id]
                iou = len(a & b) / len((a - void) | b)
                if iou > 0.5:
                    counts[segment.label][0] += iou
                    counts[segment.label][1] += 1
                    taken.add(guess.id)
                    hit.add(segment.id)
        for segment in target.segments:
            counts[segment.label][3] += not segment.crowd and segment.id not in hit
        for guess in found.segments:
            crowds = [s.id for s in target.segments if s.crowd and s.label == guess.label]
            excused = void | (theirs[crowds[-1]] if crowds else set())  # panopticapi keeps the last one alone
            own = mine[guess.id]
            counts[guess.label][2] += guess.id not in taken and not len(own & excused) > 0.5 * len(own)
    return counts


def test_counts_are_those_of_sets_of_pixels():
    pairs = [made(seed) for seed in range(40)]
    expected = by_sets(pairs)
    totals = map_quality(pairs, len(CLASSES))
    for label, q in enumerate(totals):
        total, *numbers = expected[label]
        assert [q.true_positives, q.false_positives, q.false_negatives] == numbers
        assert q.iou_sum == pytest.approx(total)
    assert all(q.true_positives and q.false_positives and q.false_negatives for q in totals[:5])
    present = [expected[k] for k in range(5)]
    pq = np.mean([total / (tp + fp / 2 + fn / 2) for total, tp, fp, fn in present])
    sq = np.mean([total / tp for total, tp, _, _ in present])
    rq = np.mean([tp / (tp + fp / 2 + fn / 2) for _, tp, fp, fn in present])
    assert mean_quality(totals) == pytest.approx({"pq": pq, "sq": sq, "rq": rq}), (
        "the class that is nowhere is left out"
    )
