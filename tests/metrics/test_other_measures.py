"""Panoptic quality, pixels, counts, coverage, confusion, calibration, sweep and bootstrap on answers known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_scenes import made, write

from eachmask.metrics.average_precision import summary
from eachmask.metrics.bootstrap import ap_of_draws, difference, draws, intervals
from eachmask.metrics.calibration import calibration
from eachmask.metrics.coco_ap import coco_ap, coco_evaluation
from eachmask.metrics.coco_matches import match
from eachmask.metrics.confusion import confusion_matrix
from eachmask.metrics.counting import counting, foreground_dice, symmetric_best_dice
from eachmask.metrics.coverage import coverage
from eachmask.metrics.panoptic_quality import mean_quality, panoptic_quality, without_overlaps
from eachmask.metrics.partitions import partitions
from eachmask.metrics.semantic import mean_over_present, pixel_counts
from eachmask.metrics.sweep import sweep
from eachmask.metrics.tide import KINDS, tide
from eachmask.structures import RLE, Instances

SIZE = (20, 40)


def boxes(*spans: tuple[int, int], labels=None, scores=None, crowd=None) -> Instances:
    """Full-height stripes from column a to b: 20 pixels a column."""
    masks = np.zeros((len(spans), *SIZE), bool)
    for mask, (a, b) in zip(masks, spans, strict=True):
        mask[:, a:b] = True
    rle = RLE.from_bitmaps(masks)
    return Instances(
        SIZE,
        torch.from_numpy(rle.boxes()),
        rle,
        labels=torch.tensor(labels if labels is not None else [0] * len(spans), dtype=torch.int64),
        scores=None if scores is None else torch.tensor(scores, dtype=torch.float32),
        crowd=None if crowd is None else torch.tensor(crowd),
    )


def test_panoptic_quality_by_hand():
    true = boxes((0, 10), (10, 20), (30, 40))
    found = boxes((0, 8), (10, 20), (22, 28), scores=[0.9, 0.8, 0.7])
    (quality,) = panoptic_quality([(found, true)], 1)
    assert (quality.true_positives, quality.false_positives, quality.false_negatives) == (2, 1, 1)
    assert quality.sq == pytest.approx(0.9) and quality.rq == pytest.approx(2 / 3)
    assert mean_quality([quality])["pq"] == pytest.approx(0.6)


def test_an_iou_of_exactly_one_half_is_no_match():
    (quality,) = panoptic_quality([(boxes((0, 5), scores=[1.0]), boxes((0, 10)))], 1)
    assert quality.true_positives == 0 and quality.pq == 0


def test_pixels_go_to_the_better_score():
    found = without_overlaps(boxes((0, 10), (5, 15), scores=[0.3, 0.9]))
    assert found.masks.area().tolist() == [200, 100]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert len(without_overlaps(boxes((2, 4), (0, 10), scores=[0.3, 0.9]))) == 1


def test_predictions_in_a_crowd_of_their_class_are_excused():
    true = boxes((0, 10), (20, 40), crowd=[False, True])
    found = boxes((0, 10), (22, 26), (12, 19), labels=[0, 0, 0], scores=[0.9, 0.8, 0.7])
    (quality,) = panoptic_quality([(found, true)], 1)
    assert (quality.true_positives, quality.false_positives, quality.false_negatives) == (1, 1, 0)
    other = panoptic_quality([(replace(found, labels=torch.tensor([0, 1, 0])), true)], 2)[1]
    assert other.false_positives == 1
    assert np.isnan(mean_quality([])["pq"])


def test_pixels_of_classes():
    true = boxes((0, 10), (10, 20), labels=[0, 1])
    found = boxes((0, 10), (5, 15), labels=[0, 0], scores=[0.9, 0.8])
    counts = pixel_counts([(found, true)], 3)
    assert counts.iou[:2].tolist() == pytest.approx([10 / 15, 0]) and np.isnan(counts.iou[2])
    assert counts.dice[:2].tolist() == pytest.approx([20 / 25, 0])
    assert mean_over_present(counts.iou) == pytest.approx(1 / 3)
    assert np.isnan(mean_over_present(np.array([np.nan])))


def test_symmetric_best_dice_by_hand():
    true, found = boxes((0, 10), (20, 30)).masks, boxes((0, 8)).masks
    # from the objects: 16/18 and 0; from the prediction: 16/18
    assert symmetric_best_dice(found, true) == pytest.approx(16 / 18 / 2)
    nothing = boxes().masks
    assert symmetric_best_dice(nothing, nothing) == 1 and symmetric_best_dice(nothing, true) == 0
    measured = counting([(found, true), (true, found), (true, true)])
    assert measured["dic"] == 0 and measured["abs_dic"] == pytest.approx(2 / 3)
    assert measured["fg_dice"] == pytest.approx((2 * (2 * 8 / 28) + 1) / 3)


def test_foreground_dice_takes_all_objects_together():
    true = boxes((0, 10), (20, 30)).masks
    assert foreground_dice(boxes((0, 5), (5, 10), (20, 30)).masks, true) == 1
    assert foreground_dice(boxes((0, 10), (0, 10)).masks, true) == pytest.approx(2 * 10 / 30)
    nothing = boxes().masks
    assert foreground_dice(nothing, nothing) == 1 and foreground_dice(nothing, true) == 0


def test_partitions_by_hand():
    true = boxes((0, 10), (10, 20)).masks
    assert partitions([(true, true)]) == {"vi_split": 0, "vi_merge": 0, "rand_error": 0}
    joined = partitions([(boxes((0, 20)).masks, true)])
    assert joined["vi_split"] == pytest.approx(0, abs=1e-12) and joined["vi_merge"] == pytest.approx(1), "one bit lost"
    halved = partitions([(boxes((0, 5), (5, 10), (10, 15), (15, 20)).masks, true)])
    assert halved["vi_split"] == pytest.approx(1) and halved["vi_merge"] == pytest.approx(0, abs=1e-12)
    assert 0.3 < joined["rand_error"] < 0.4 and 0.3 < halved["rand_error"] < 0.4
    beside = boxes((0, 10), (10, 20), (25, 30)).masks
    assert partitions([(beside, true)])["rand_error"] == 0, "what lies on no object does not count"
    assert np.isnan(partitions([(true, boxes().masks)])["vi_split"])


def test_coverage_by_hand():
    true, found = boxes((0, 10), (20, 40)).masks, boxes((0, 5), (20, 40), (20, 30)).masks
    measured = coverage([(found, true)])
    assert measured["coverage"] == pytest.approx(0.75)
    assert measured["weighted_coverage"] == pytest.approx((0.5 * 10 + 20) / 30)
    assert np.isnan(coverage([])["coverage"])
    assert coverage([(boxes().masks, true)])["coverage"] == 0


def test_confusion_by_hand():
    true = boxes((0, 10), (10, 20), (25, 30), (32, 40), labels=[0, 1, 1, 0], crowd=[False, False, False, True])
    found = boxes((0, 10), (10, 20), (33, 36), (20, 24), labels=[0, 0, 0, 1], scores=[0.9, 0.8, 0.7, 0.6])
    matrix = confusion_matrix([(found, true)], 2)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def right_and_wrong() -> tuple[list[Instances], list[Instances]]:
    true = [boxes((0, 10), (20, 30)), boxes((0, 10))]
    found = [boxes((0, 10), (12, 18), (20, 30), scores=[0.95, 0.75, 0.35]), boxes((0, 10), scores=[0.85])]
    return found, true


def test_sweep_by_hand():
    curve = sweep(match(*right_and_wrong(), 1))
    assert curve is not None
    assert curve.precision[[0, 70, 80, 90, 100]].tolist() == pytest.approx([3 / 4, 2 / 3, 1, 1, math.nan], nan_ok=True)
    assert curve.recall[[0, 70, 80, 90, 100]].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 0])
    assert curve.best_f1 == pytest.approx(6 / 7) and curve.best_threshold == pytest.approx(0.35)
    assert sweep(match(*right_and_wrong(), 2), 1) is None


def test_best_threshold_never_parts_equal_scores():
    found, true = [boxes((0, 10), (20, 25), scores=[0.5, 0.5])], [boxes((0, 10))]
    curve = sweep(match(found, true, 1))
    assert curve is not None and curve.best_f1 == pytest.approx(2 / 3)


def test_calibration_by_hand():
    found = calibration(match(*right_and_wrong(), 1))
    assert found.count.tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 1, 1]
    assert found.ece == pytest.approx((0.65 + 0.75 + 0.15 + 0.05) / 4, abs=1e-6)
    assert found.largest_gap == pytest.approx(0.75, abs=1e-6)
    assert np.isnan(calibration(match([boxes(scores=[])], [boxes((0, 3))], 1)).ece)


def test_scores_on_a_grid_line_are_not_below_it():
    """0.7 in 32 bits is 0.69999999."""
    found, true = [boxes((0, 10), (20, 30), scores=[0.7, 0.6])], [boxes((0, 10), (20, 30))]
    curve, bins = sweep(match(found, true, 1)), calibration(match(found, true, 1))
    assert curve is not None and curve.recall[[60, 61, 70, 71]].tolist() == [1, 0.5, 0.5, 0]
    assert bins.count.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0]


def test_calibration_error_equals_hotcoco(tmp_path):
    for seed in range(3):
        predictions, targets = made(seed)
        for found in predictions:  # away from the bins' edges
            found.scores = found.scores.clamp(0.05, 0.9) + 0.033
        evaluation = coco_evaluation(*write(tmp_path, predictions, targets), "segm")
        ours = calibration(match(predictions, targets, 3)).ece
        assert ours == pytest.approx(evaluation.calibration(n_bins=10, iou_threshold=0.5)["ece"], abs=1e-6)


def test_kinds_of_error_start_from_ap50(tmp_path):
    predictions, targets = made(0)
    evaluation = coco_evaluation(*write(tmp_path, predictions, targets), "segm")
    errors = tide(evaluation)
    assert evaluation.tide_errors()["ap_base"] == pytest.approx(summary(match(predictions, targets, 3))["ap50"])
    assert set(errors) == {*KINDS, "FP", "FN"} and errors["Loc"]["count"] > 0 and "count" not in errors["FP"]


def test_an_image_drawn_twice_counts_twice():
    predictions, targets = made(3)
    weights = np.array([[2, 0, 1, 1, 3, 0, 0, 1]], float)
    drawn = [i for i, n in enumerate(weights[0]) for _ in range(int(n))]
    again = coco_ap([predictions[i] for i in drawn], [targets[i] for i in drawn])
    ap, ap50 = ap_of_draws(match(predictions, targets, 3), weights)[0]
    # tied scores of copies of an image are ordered differently: the monotone precision may move a little
    assert ap == pytest.approx(again["ap"], abs=0.02) and ap50 == pytest.approx(again["ap50"], abs=0.02)
    assert draws(8, 5).sum(1).tolist() == [8] * 5


def test_interval_holds_the_value():
    predictions, targets = made(4, num_images=12)
    matches = match(predictions, targets, 3)
    found = intervals(matches, 100)["ap"]
    assert found.value == pytest.approx(summary(matches)["ap"])
    assert found.low < found.value < found.high
    assert intervals(matches, 100) == intervals(matches, 100)


def test_a_model_does_not_differ_from_itself():
    predictions, targets = made(4)
    matches = match(predictions, targets, 3)
    same = difference(matches, matches, 20)["ap"]
    assert (same.value, same.low, same.high) == (0, 0, 0) and not same.excludes_zero
    worse = match([p[:0] for p in predictions], targets, 3)
    assert difference(matches, worse, 50)["ap"].excludes_zero
    with pytest.raises(ValueError, match="not the same data"):
        difference(matches, match(predictions[:2], targets[:2], 3))
