"""Predictions go to the tools that correct them, with their scores where these have a field, and come back."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from foreign_sets import SIZE, image

from eachmask.cli.convert import summary
from eachmask.data import read
from eachmask.data.builder import DatasetBuilder
from eachmask.data.convert import convert
from eachmask.data.joined import joined
from eachmask.data.reading import format_named
from eachmask.data.targets import instances_of, named_categories
from eachmask.files.progress import no_progress
from eachmask.structures import RLE

SCORES = [0.9, 0.25]


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """A COCO set of two objects, one with two parts, with scores."""
    bitmaps = np.zeros((2, *SIZE), bool)
    bitmaps[0, 5:20, 5:20] = bitmaps[1, 25:30, 5:20] = bitmaps[1, 35:40, 30:60] = True
    categories = named_categories(["bolt", "nut"])
    made = DatasetBuilder(categories)
    targets = instances_of(RLE.from_bitmaps(bitmaps), [1, 0], [False, False], categories, SCORES)
    made.add("all", "a.png", image(tmp_path / "a.png"), targets)
    format_named("coco").write(tmp_path / "predicted", made.build(), no_progress)
    return tmp_path / "predicted"


@pytest.mark.parametrize("to", ["coco", "cvat", "labelme", "label-studio", "qupath", "via", "datumaro"])
def test_scores_are_kept_by_tools_that_have_a_field(predictions: Path, to: str) -> None:
    report = convert(predictions, predictions.parent / to, to)
    assert report.loss.exact and report.loss.scores == 2, report.loss
    split = read(predictions.parent / to).splits["all"]
    assert split.scores_of(0).tolist() == pytest.approx(SCORES) and split.targets(0).scores is None
    assert split.scored_targets(0).scores is not None


def test_scores_that_are_lost_are_said(predictions: Path) -> None:
    report = convert(predictions, predictions.parent / "voc", "voc")
    assert report.loss.scores_lost == 2 and not report.loss.exact and "0 of 2" in summary(report)


def test_where_the_tools_find_the_scores(predictions: Path) -> None:
    base = predictions.parent
    for to in ("label-studio", "qupath", "cvat"):
        convert(predictions, base / to, to)
    (task,) = json.loads((base / "label-studio" / "project.json").read_text())
    (found,) = task["predictions"]
    assert "annotations" not in task and found["score"] == pytest.approx(np.mean(SCORES))
    assert [region["score"] for region in found["result"]] == SCORES
    features = json.loads((base / "qupath" / "all" / "a.geojson").read_text())["features"]
    assert [feature["properties"]["measurements"] for feature in features] == [{"score": score} for score in SCORES]
    root = ElementTree.parse(base / "cvat" / "annotations.xml").getroot()
    assert [e.text for e in root.iterfind(".//attribute[@name='score']")] == ["0.9", "0.25"]
    assert root.find("meta/task") is not None and root.find("image").get("subset") is None  # type: ignore[union-attr]
    assert {e.text for e in root.iterfind(".//label/attributes/attribute/name")} == {"crowd", "score"}


def test_older_measurements_of_qupath(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    geometry = {"type": "Polygon", "coordinates": [[[5, 5], [20, 5], [20, 20], [5, 20], [5, 5]]]}
    properties = {"measurements": [{"name": "Area", "value": 3}, {"name": "Score", "value": 0.5}]}
    (tmp_path / "a.geojson").write_text(json.dumps([{"geometry": geometry, "properties": properties}]))
    assert read(tmp_path).splits["all"].scores_of(0).tolist() == [0.5]


def test_splits_with_and_without_scores(predictions: Path) -> None:
    split = read(predictions).splits["all"]
    assert split.take([0]).scores is not None and split.take([]).scores is not None
    (predictions / "instances_all.json").write_text(
        json.dumps(json.loads((predictions / "instances_all.json").read_text()) | {"annotations": []})
    )
    none = read(predictions).splits["all"]
    assert none.scores is None and joined([split, none]).scores is None and not none.scores_of(0).size
    assert torch.isfinite(split.scored_targets(0).scores).all()  # type: ignore[arg-type]


def test_datumaros_groups_boxes_and_attributes(tmp_path: Path) -> None:
    square = {"type": "polygon", "points": [5, 5, 20, 5, 20, 20, 5, 20], "label_id": 1, "group": 3}
    rows = [
        square | {"attributes": {"is_crowd": True}},
        {"type": "mask", "rle": {"counts": [48 * 60, 96, 96], "size": [48, 64]}, "label_id": 1, "group": 3},
        {"type": "bbox", "bbox": [0, 0, 60, 40], "label_id": 1, "group": 3},
        {"type": "bbox", "bbox": [30, 10, 10, 4], "label_id": 0, "group": 0},
        {"type": "rotated_bbox", "bbox": [30, 20, 10, 4, 90], "label_id": 0},
        {"type": "ellipse", "points": [10, 10, 30, 30], "label_id": 0},
        {"type": "label", "label_id": 0},
        {"type": "polyline", "points": [1, 1, 2, 2], "label_id": 0},
        square | {"label_id": 9, "group": 0},
    ]
    labels = [{"name": "bolt", "parent": "none"}, {"name": "nut", "parent": "part"}]
    item = {"id": "x/a", "annotations": rows, "image": {"path": "x/a.png", "size": list(SIZE)}}
    image(tmp_path / "images" / "default" / "x" / "a.png")
    (tmp_path / "annotations").mkdir()
    content = {"categories": {"label": {"labels": labels}}, "items": [item]}
    (tmp_path / "annotations" / "default.json").write_text(json.dumps(content), encoding="utf-8-sig")
    data = read(tmp_path)
    split = data.splits["all"]
    areas = split.targets(0).masks.area().tolist()
    assert areas[:3] == [225 + 96, 40, 40] and areas[3] == pytest.approx(314, abs=12)
    assert split.targets(0).crowd.tolist() == [True, False, False, False] and split.path(0).is_file()
    assert [(c.name, c.parent) for c in data.categories] == [("bolt", ""), ("nut", "part")]
    assert [p.what for p in data.problems] == [
        "a polyline has no area",
        "it cannot be read (its label_id 9 is not among the labels)",
    ]
