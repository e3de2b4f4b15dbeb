"""COCO panoptic sets: written, read back, found among others, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import eachmask
from eachmask import cli
from eachmask.data.formats.coco_panoptic import FORMAT
from eachmask.files.progress import no_progress
from eachmask.structures import PanopticMap, UserError


def small_set(folder: Path) -> Path:
    """Two images with a road, a crowd and a car each; one pixel is of an id that is in no list."""
    categories = [{"id": 7, "name": "car", "isthing": 1}, {"id": 90, "name": "road", "isthing": 0}]
    images, annotations = [], []
    for number in (3, 5):
        name = f"{number}.jpg"
        (folder / "images" / "train").mkdir(parents=True, exist_ok=True)
        (folder / "panoptic" / "train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / "train" / name), np.full((20, 30, 3), 90, np.uint8))
        ids = np.full((20, 30), 300)
        ids[4:9, 5:15], ids[12:, 20:], ids[0, 0] = 70000, 12, 999
        colors = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1).astype(np.uint8)
        cv2.imwrite(str(folder / "panoptic" / "train" / f"{number}.png"), colors)
        rows = [(300, 90, 0), (70000, 7, 0), (12, 7, 1)]
        segments = [{"id": i, "category_id": k, "iscrowd": c} for i, k, c in rows]
        images.append({"id": number, "file_name": name, "height": 20, "width": 30})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic_train.json").write_text(json.dumps(content))
    return folder


def test_segments_and_void_are_read(tmp_path):
    data = eachmask.data.read(small_set(tmp_path))
    split = data.splits["train"]
    sample = split[0]
    assert isinstance(sample.targets, PanopticMap) and len(split) == 2 and not data.problems
    assert [(s.id, s.label, s.crowd) for s in sample.targets.segments] == [
        (300, 1, False),
        (70000, 0, False),
        (12, 0, True),
    ]
    assert int(sample.targets.ids[0, 0]) == 0 and int((sample.targets.ids == 70000).sum()) == 50
    assert [category.is_thing for category in data.categories] == [True, False]


def test_it_is_written_and_read_back(tmp_path):
    data = eachmask.data.read(small_set(tmp_path / "a"))
    FORMAT.write(tmp_path / "b", data, no_progress)
    again = eachmask.data.read(tmp_path / "b", format="coco-panoptic")
    assert again.categories == data.categories
    for one, other in zip(data.splits["train"], again.splits["train"], strict=True):
        assert torch.equal(one.targets.ids, other.targets.ids) and one.targets.segments == other.targets.segments
    said = json.loads((tmp_path / "b" / "panoptic_train.json").read_text())
    assert {s["area"] for s in said["annotations"][0]["segments_info"]} >= {50, 80}


def test_objects_asked_of_it_are_answered_with_what_it_can_become(tmp_path, capsys):
    small_set(tmp_path / "set")
    assert cli.main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "coco"]) == 2
    told = capsys.readouterr().err
    assert "holds PanopticMap and not Instances" in told and len(told) < 500
    assert "PanopticMap can be converted to coco-panoptic or cityscapes-panoptic" in told


def test_what_is_missing_is_named(tmp_path):
    folder = small_set(tmp_path)
    (folder / "panoptic" / "train" / "5.png").unlink()
    data = eachmask.data.read(folder)
    assert len(data.splits["train"]) == 1 and "5.png" in data.problems[0].file


def test_a_map_that_does_not_fit_its_list_is_named(tmp_path, capsys):
    """One of another image or of one channel is refused; of what is partly strange the doctor tells."""
    folder = small_set(tmp_path)
    cv2.imwrite(str(folder / "panoptic" / "train" / "5.png"), np.full((20, 30), 9, np.uint8))
    content = json.loads((folder / "panoptic_train.json").read_text())
    content["annotations"][0]["segments_info"] += [{"id": 4, "category_id": 5, "iscrowd": 0}]
    (folder / "panoptic_train.json").write_text(json.dumps(content))
    data = eachmask.data.read(folder)
    assert "segment 4 of 3.jpg has the category 5" in str(data.problems[0]) and len(data.splits["train"]) == 2
    with pytest.raises(UserError, match="5.png shows none of the 3 segments"):
        data.splits["train"].targets(1)
    assert cli.main(["doctor", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "0.2% of its pixels have ids that are not listed (999 ...)" in said
    assert "1 listed segments have no pixel (4 ...)" in said and "5.png: shows none of the 3 segments" in said


def test_a_folder_with_objects_too_is_read_as_asked(shared):
    folder = shared / "data" / "coco-mini"
    data = eachmask.data.read(folder, target=PanopticMap)
    assert sum(len(split) for split in data.splits.values()) == 170
    target = data.splits["val"].targets(0)
    assert len(target.segments) > 3 and any(not target.is_thing(s) for s in target.segments)
    assert eachmask.data.read(folder / "panoptic_val.json").splits["val"].targets(0).segments == target.segments
