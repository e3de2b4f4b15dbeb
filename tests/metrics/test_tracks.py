"""Measures of tracks on videos small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eachmask.metrics.tracks import TrackedFrame, track_scores
from eachmask.metrics.video_ap import VideoTracks, video_ap


def frame(targets, found, iou) -> TrackedFrame:
    table = np.array(iou, np.float64).reshape(len(targets), len(found))
    return TrackedFrame(np.array(targets, np.int64), np.array(found, np.int64), table)


def test_perfect_tracks():
    scores = track_scores([frame([1, 2], [7, 9], [[1, 0], [0, 1]])] * 3)
    assert all(scores[name] == 1 for name in ("hota", "deta", "assa", "loca", "idf1", "motsa", "smotsa", "motsp"))
    assert (scores["switches"], scores["tracks"], scores["found_tracks"], scores["objects"]) == (0, 2, 2, 6)


def test_a_track_that_breaks_in_the_middle():
    """One object in four frames; two frames under one number, two under another, always perfect masks."""
    scores = track_scores([frame([1], [1], [1.0])] * 2 + [frame([1], [2], [1.0])] * 2)
    assert scores["deta"] == 1
    assert scores["assa"] == pytest.approx(0.5), "each pair: 2 common frames of 4 + 2 - 2"
    assert scores["hota"] == pytest.approx(math.sqrt(0.5))
    assert scores["idf1"] == pytest.approx(2 * 2 / 8)
    assert scores["switches"] == 1 and scores["motsa"] == pytest.approx(3 / 4)


def test_masks_that_agree_by_half():
    """IoU 0.6 is enough for the levels 0.05 ... 0.60, twelve of nineteen."""
    scores = track_scores([frame([1], [1], [0.6])] * 5)
    assert scores["hota"] == pytest.approx(12 / 19)
    assert scores["loca"] == pytest.approx((12 * 0.6 + 7) / 19)
    assert scores["motsa"] == 1 and scores["smotsa"] == pytest.approx(0.6) == scores["motsp"]


def test_misses_and_inventions():
    """Two objects, one found; one result of nothing: TP 1, FP 1, FN 1 in each of two frames."""
    scores = track_scores([frame([1, 2], [1, 5], [[1, 0], [0, 0]])] * 2)
    assert scores["deta"] == pytest.approx(1 / 3) and scores["assa"] == 1
    assert scores["motsa"] == 0 and scores["idf1"] == pytest.approx(0.5)


def test_an_object_keeps_its_track_where_another_overlaps_a_little_more():
    frames = [frame([1], [1], [0.8]), frame([1], [1, 2], [0.6, 0.7])]
    assert track_scores(frames)["switches"] == 0


def test_an_object_still_prefers_its_track_after_a_frame_without_results():
    frames = [frame([1], [1], [0.8]), frame([1], [], []), frame([1], [1, 2], [0.6, 0.7])]
    assert track_scores(frames)["switches"] == 0


def test_made_tracks_against_an_independent_implementation():
    """Random tracks, also in frames without objects or results, against TrackEval (`pip install trackeval`)."""
    reference = pytest.importorskip("trackeval.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        frames = []
        for _ in range(int(rng.integers(2, 30))):
            n, m = rng.integers(0, 6, 2)
            own, other = rng.permutation(6)[:n], rng.permutation(7)[:m]
            same = np.where(own[:, None] == other[None], 1.0, 0.62)
            frames.append(TrackedFrame(own, other, rng.random((n, m)) * same))
        data = {
            "gt_ids": [f.targets for f in frames], "tracker_ids": [f.found for f in frames],
            "similarity_scores": [f.iou for f in frames], "num_gt_ids": 6, "num_tracker_ids": 7,
            "num_gt_dets": sum(len(f.targets) for f in frames), "num_tracker_dets": sum(len(f.found) for f in frames),
            "num_timesteps": len(frames), "seq": "made",
        }  # fmt: skip
        if not data["num_gt_dets"] or not data["num_tracker_dets"]:
            continue
        with np.errstate(invalid="ignore"):
            hota = reference.HOTA().eval_sequence(data)
        clear = reference.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
        identity = reference.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
        theirs = {
            "hota": hota["HOTA"].mean(), "deta": hota["DetA"].mean(), "assa": hota["AssA"].mean(),
            "loca": hota["LocA"].mean(), "idf1": identity["IDF1"], "motsa": clear["MOTA"], "smotsa": clear["sMOTA"],
            "motsp": clear["MOTP"], "switches": clear["IDSW"],
        }  # fmt: skip
        ours = track_scores(frames)
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


def test_nothing_at_all():
    scores = track_scores([frame([], [], [])])
    assert math.isnan(scores["hota"]) and math.isnan(scores["motsa"]) and math.isnan(scores["idf1"])
    missed = track_scores([frame([1], [], [])])
    assert missed["hota"] == 0 and missed["motsa"] == 0


def tracks(common, targets, found, scores) -> VideoTracks:
    table = np.array(common, np.float64).reshape(len(targets), len(found))
    return VideoTracks(table, *(np.array(v, np.float64) for v in (targets, found, scores)))


def test_video_ap():
    """Two objects; the better result is right at IoU 0.8, the second is nothing, the third right at 0.5."""
    one = tracks([[80, 0, 0], [0, 0, 50]], [100, 100], [80, 100, 50], [0.9, 0.8, 0.7])
    scores = video_ap([[one]])
    # recall 0.5 with precision 1 (51 of 101 recalls), then 2/3 for the other 50, at IoU 0.5 alone
    assert scores["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert scores["ap75"] == pytest.approx(51 / 101)
    assert scores["ap"] == pytest.approx((scores["ap50"] + 6 * 51 / 101) / 10)
    assert scores["ar"] == pytest.approx((1 + 6 * 0.5) / 10)


def test_video_ap_reads_recalls_as_coco_does():
    """Seven objects of ten are found: 7 / 10 is less than 0.7000000000000001, the 71st of COCO's recalls."""
    one = tracks(np.eye(7, 10).T * 10, [10] * 10, [10] * 7, np.linspace(0.9, 0.3, 7))
    assert video_ap([[one]])["ap"] == pytest.approx(70 / 101)


def test_video_ap_is_a_mean_over_classes_that_are_there():
    good, none = tracks([[10]], [10], [10], [0.5]), tracks([], [], [5], [0.9])
    assert video_ap([[good, none]])["ap"] == 1
    assert math.isnan(video_ap([[none]])["ap"])
    twice = tracks([[10, 10]], [10], [10, 10], [0.9, 0.8])
    assert video_ap([[twice]])["ap"] == 1, "the second result of one object comes after recall 1"
