"""The table of matches gives pycocotools' numbers, on made and on real data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_scenes import CATEGORIES, ellipse, jittered, made, of_bitmaps, pycocotools, read_one, write

from eachmask.metrics.average_precision import NAMES, per_class, summary
from eachmask.metrics.coco_ap import KEYPOINT_NAMES, coco_evaluation, numbers
from eachmask.metrics.coco_matches import assign, box_overlap, match
from eachmask.structures import Instances
from eachmask.structures.coco import to_annotations


def without(rows: list[dict], *fields: str) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in fields} for row in rows]


def close(ours: dict[str, float], theirs: list[float], tolerance: float = 1e-12) -> None:
    assert len(ours) == len(theirs)
    for (name, value), other in zip(ours.items(), theirs, strict=True):
        assert np.nan_to_num(value, nan=-1.0) == pytest.approx(other, abs=tolerance), name


@pytest.mark.parametrize("seed", range(4))
def test_made_data_equals_pycocotools(tmp_path, seed):
    predictions, targets = made(seed)
    annotations, results = write(tmp_path, predictions, targets)
    rows = without(json.loads(results.read_text()), "bbox", "area")
    theirs = pycocotools(annotations, rows, "segm")
    close(summary(match(predictions, targets, len(CATEGORIES))), theirs)
    close(numbers(coco_evaluation(annotations, rows, "segm"), "segm"), theirs)
    assert 0.05 < theirs[0] < 0.95


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_files_with_boxes_and_masks_equal_pycocotools(tmp_path, kind):
    annotations, results = write(tmp_path, *made(5))
    theirs = pycocotools(annotations, json.loads(results.read_text()), kind)
    close(numbers(coco_evaluation(annotations, results, kind), kind), theirs)


def part_of(annotations: Path, folder: Path, num_images: int) -> Path:
    """The images with crowds and as many more as are wanted."""
    content = json.loads(annotations.read_text())
    crowded = {row["image_id"] for row in content["annotations"] if row["iscrowd"]}
    chosen = sorted(content["images"], key=lambda r: r["id"] not in crowded)[:num_images]
    content["images"] = sorted(chosen, key=lambda r: r["id"])  # ties of scores go by image id
    kept = {record["id"] for record in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    path = folder / "part.json"
    path.write_text(json.dumps(content))
    return path


def test_real_data_equals_pycocotools(shared, tmp_path):
    annotations = part_of(shared / "data" / "coco-mini" / "instances_val.json", tmp_path, 50)
    split = read_one(annotations)
    predictions = jittered(split)
    rows = [
        {"image_id": split.image_id(i), **row} for i, found in enumerate(predictions) for row in to_annotations(found)
    ]
    for kind, other in (("segm", "bbox"), ("bbox", "segmentation")):
        plain = without(rows, other, "area")
        theirs = pycocotools(annotations, plain, kind)
        close(numbers(coco_evaluation(annotations, plain, kind), kind), theirs)
        if kind == "segm":
            targets = [split.stated_targets(i) for i in range(len(split))]
            ours = summary(match(predictions, targets, len(split.categories)))
            sized = ("ap_small", "ap_medium", "ap_large", "ar_small", "ar_medium", "ar_large")
            # the file's areas are of its polygons, ours of the pixels: a few objects change their size range
            assert max(abs(ours[n] - t) for n, t in zip(NAMES, theirs, strict=True) if n in sized) < 5e-3
            assert max(abs(ours[n] - t) for n, t in zip(NAMES, theirs, strict=True) if n not in sized) < 1e-12


def test_keypoints_equal_pycocotools(shared):
    annotations = shared / "data" / "coco-person-single" / "instances_val.json"
    rng = np.random.default_rng(0)
    rows = []
    for row in json.loads(annotations.read_text())["annotations"]:
        if row.get("num_keypoints"):
            points = np.array(row["keypoints"], float).reshape(-1, 3)
            points[:, :2] += rng.normal(0, 8, (len(points), 2))
            flat = points.round(1).reshape(-1).tolist()
            score = float(rng.random())
            rows.append(
                {"image_id": row["image_id"], "category_id": row["category_id"], "keypoints": flat, "score": score}
            )
    ours = numbers(coco_evaluation(annotations, rows, "keypoints"), "keypoints")
    assert tuple(ours) == KEYPOINT_NAMES and 0.1 < ours["ap"] < 0.99
    close(ours, pycocotools(annotations, rows, "keypoints"))


def one_group(overlap, crowd=(False, False), unimportant=None):
    overlap = np.array(overlap, float)
    crowd = np.array(crowd)
    area_ignored = np.repeat(crowd[None], 4, axis=0) if unimportant is None else np.array(unimportant)
    return assign(overlap, np.zeros((4, len(overlap)), bool), area_ignored, crowd)


def test_best_score_takes_first_and_one_object_is_one_hit():
    matched, ignored = one_group([[0.6, 0.0], [0.9, 0.0]])
    assert matched[0, 0].tolist() == [True, False]
    assert matched[0, 4].tolist() == [False, True]  # at 0.7 only the second one fits
    assert not ignored.any()


def test_a_crowd_takes_any_number_and_none_of_them_counts():
    matched, ignored = one_group([[0.9, 0.0], [0.8, 0.0]], crowd=(True, False))
    assert matched[0, 0].all() and ignored[0, 0].all()


def test_a_real_object_comes_before_a_better_crowd():
    matched, ignored = one_group([[0.95, 0.55]], crowd=(True, False))
    assert matched[0, 0, 0] and not ignored[0, 0, 0]
    assert matched[0, 5, 0] and ignored[0, 5, 0]


def test_classes_without_objects_are_left_out():
    predictions, targets = made(1)
    matches = match(predictions, targets, len(CATEGORIES))
    rows = per_class(matches)
    assert np.isnan(rows[2]["ap"]) and rows[2]["objects"] == 0 and rows[2]["detections"] > 0
    assert summary(matches)["ap"] == pytest.approx(np.mean([row["ap"] for row in rows[:2]]))


def test_nothing_at_all():
    empty = of_bitmaps(np.zeros((0, 90, 120), bool), labels=torch.zeros(0, dtype=torch.int64))
    assert np.isnan(summary(match([empty], [empty], 3))["ap"])
    one = of_bitmaps(ellipse(40, 40, 20, 20)[None], labels=torch.zeros(1, dtype=torch.int64))
    assert summary(match([empty], [one], 3))["ap"] == 0
    with pytest.raises(ValueError, match="1 predictions for 2"):
        match([empty], [empty, empty], 3)


def test_boxes_without_masks_are_matched_by_their_overlap() -> None:
    def boxes(rows: list[list[float]], scores: list[float], crowd: list[bool] | None = None) -> Instances:
        count = len(rows)
        return Instances(
            (60, 60), torch.tensor(rows), labels=torch.zeros(count, dtype=torch.int64), scores=torch.tensor(scores),
            crowd=None if crowd is None else torch.tensor(crowd),
        )  # fmt: skip

    found = boxes([[0, 0, 10, 10], [0, 0, 9, 10], [40, 40, 50, 50]], [0.9, 0.8, 0.7])
    true = boxes([[0, 0, 10, 10], [30, 30, 60, 60]], [1.0, 1.0], [False, True])
    matches = match([found], [true], 1, overlap=box_overlap)
    assert matches.matched[0, 0].tolist() == [True, False, True]
    assert matches.ignored[0, 0].tolist() == [False, False, True]  # wholly in the crowd region: neither right nor wrong
    assert box_overlap(found, true)[2].tolist() == [0.0, 1.0]
