"""Cityscapes as panoptic maps: written, read back, and measured by what predict writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import eachmask
from eachmask import cli
from eachmask.data.compare import changed_pixels
from eachmask.structures import PanopticMap, UserError


def as_distributed(folder: Path) -> Path:
    """A street: road, two cars, a group of people, and the car that takes the pictures, which is void."""
    values = np.full((16, 24), 7, np.uint16)
    values[2:6, 2:8], values[2:6, 12:18], values[10:14, 2:8], values[15] = 26000, 26001, 24, 1
    for part, image in (("gtFine", values), ("leftImg8bit", np.full((16, 24, 3), 90, np.uint8))):
        ending = "gtFine_instanceIds" if part == "gtFine" else part
        path = folder / part / "val" / "ulm" / f"ulm_0_{ending}.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), image)
    return folder


def test_things_stuff_and_crowds(tmp_path):
    data = eachmask.data.read(as_distributed(tmp_path), target=PanopticMap)
    seen = data.splits["val"].targets(0)
    names = [(data.categories[s.label].name, s.crowd, data.categories[s.label].is_thing) for s in seen.segments]
    assert names == [("road", False, False), ("person", True, True), ("car", False, True), ("car", False, True)]
    assert len(data.categories) == 19 and not seen.ids[15].any() and int((seen.ids == 26001).sum()) == 24


def test_it_goes_to_coco_and_back(tmp_path):
    source = as_distributed(tmp_path / "a")
    for name, form in (("b", "coco-panoptic"), ("c", "cityscapes-panoptic")):
        call = ["convert", str(source), str(tmp_path / name), "--to", form]
        assert cli.main(call if name == "c" else [*call, "--from", "cityscapes-panoptic"]) == 0
        source = tmp_path / name
    first, last = (eachmask.data.read(tmp_path / n, target=PanopticMap) for n in ("a", "c"))
    assert last.categories == first.categories
    one, other = (data.splits["val"].targets(0) for data in (first, last))
    assert torch.equal(one.ids, other.ids) and one.segments == other.segments


def test_what_was_written_is_known_again_and_segments_may_be_numbered_anew(tmp_path, capsys):
    """Ids that are no classes of Cityscapes' are not taken for its objects."""
    source = tmp_path / "a"
    for folder in ("images/val", "panoptic/val"):
        (source / folder).mkdir(parents=True)
    cv2.imwrite(str(source / "images/val/a.png"), np.full((8, 9, 3), 90, np.uint8))
    colors = np.zeros((8, 9, 3), np.uint8)
    colors[..., 2] = np.repeat([5, 9, 7], 3)
    cv2.imwrite(str(source / "panoptic/val/a.png"), colors)
    segments = [{"id": i, "category_id": k, "iscrowd": 0} for i, k in ((5, 200), (9, 100), (7, 100))]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 9}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 100, "name": "nut", "isthing": 1}, {"id": 200, "name": "table", "isthing": 0}],
    }
    (source / "panoptic_val.json").write_text(json.dumps(content))
    assert cli.main(["convert", str(source), str(tmp_path / "b"), "--to", "cityscapes-panoptic"]) == 0
    assert "pixels that changed                 0 of 72" in capsys.readouterr().out
    assert cli.main(["doctor", str(tmp_path / "b")]) == 0
    assert "1 images (cityscapes-panoptic): 0 errors" in capsys.readouterr().out.replace("1 image (", "1 images (")
    before, after = (eachmask.data.read(tmp_path / n).splits["val"].targets(0) for n in "ab")
    assert changed_pixels(before, after) == 0 and not torch.equal(before.ids, after.ids)
    other = replace(after, segments=tuple(replace(s, label=1 - s.label) for s in after.segments))
    assert changed_pixels(before, other) == 72
    joined = after.relabeled({0: 1, 1: 1}, after.categories)
    assert changed_pixels(before, joined) == 48, "the table keeps its own third"


def test_what_cityscapes_scripts_write_is_read_and_written(tmp_path):
    source = as_distributed(tmp_path / "a")
    assert cli.main(["convert", str(source), str(tmp_path / "b"), "--from", "cityscapes-panoptic",
                     "--to", "cityscapes-panoptic"]) == 0  # fmt: skip
    file = tmp_path / "b" / "gtFine" / "cityscapes_panoptic_val.json"
    said = json.loads(file.read_text())
    assert said["images"] == [{"id": "ulm_0", "width": 24, "height": 16, "file_name": "ulm_0_gtFine_leftImg8bit.png"}]
    (row,) = said["annotations"]
    assert (row["image_id"], row["file_name"]) == ("ulm_0", "ulm_0_gtFine_panoptic.png")
    found = [(s["id"], s["category_id"], s["area"], s["iscrowd"]) for s in row["segments_info"]]
    assert found == [(7, 7, 24 * 15 - 72, 0), (24, 24, 24, 1), (26000, 26, 24, 0), (26001, 26, 24, 0)]
    assert {c["name"]: c["isthing"] for c in said["categories"]}["car"] == 1
    for path in (tmp_path / "b").rglob("*_instanceIds.png"):  # as who has made the files and keeps these alone
        path.unlink()
    for place in (tmp_path / "b", file):
        data = eachmask.data.read(place, target=PanopticMap)
        assert not data.problems and list(data.splits["val"].names) == ["ulm/ulm_0.png"]
        seen, first = (d.splits["val"].targets(0) for d in (data, eachmask.data.read(source, target=PanopticMap)))
        assert torch.equal(seen.ids, first.ids) and seen.segments == first.segments


def test_train_ids_of_cityscapes_scripts_are_read(tmp_path):
    source = as_distributed(tmp_path)
    (source / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_instanceIds.png").unlink()
    folder = source / "gtFine" / "cityscapes_panoptic_val_trainId"
    folder.mkdir()
    colors = np.zeros((16, 24, 3), np.uint8)  # BGR of 26001 = 145 + 256 * 101
    colors[2:6, 12:18, 1:] = 101, 145
    cv2.imwrite(str(folder / "ulm_0_gtFine_panoptic.png"), colors)
    segment = {"id": 26001, "category_id": 13, "area": 24, "bbox": [12, 2, 6, 4], "iscrowd": 0}
    content = {
        "images": [{"id": "ulm_0", "file_name": "ulm_0_gtFine_leftImg8bit.png"}, {"id": "ulm_1", "file_name": "x"}],
        "annotations": [
            {"image_id": name, "file_name": f"{name}_gtFine_panoptic.png", "segments_info": [segment]}
            for name in ("ulm_0", "ulm_1")
        ],
        "categories": [{"id": 0, "name": "road", "isthing": 0}, {"id": 13, "name": "car", "isthing": 1}],
    }
    folder.with_suffix(".json").write_text(json.dumps(content))
    data = eachmask.data.read(source, target=PanopticMap)
    seen = data.splits["val"].targets(0)
    assert [(data.categories[s.label].name, s.id) for s in seen.segments] == [("car", 26001)]
    assert int((seen.ids == 26001).sum()) == 24 and len(data.splits["val"]) == 1
    assert [Path(problem.file).name for problem in data.problems] == ["ulm_1_leftImg8bit.png"]


def test_two_images_of_one_name_are_refused(tmp_path):
    source = as_distributed(tmp_path / "a")
    for part in ("gtFine", "leftImg8bit"):
        (source / part / "val" / "bonn").mkdir()
        (path,) = (source / part / "val" / "ulm").iterdir()
        (source / part / "val" / "bonn" / path.name).write_bytes(path.read_bytes())
    call = ["convert", str(source), str(tmp_path / "b"), "--from", "cityscapes-panoptic", "--to", "cityscapes-panoptic"]
    assert cli.main(call) == 2


def test_a_bad_line_of_the_list_is_named(tmp_path):
    (as_distributed(tmp_path) / "gtFine" / "panoptic_classes.txt").write_text("7 stuff road\n26 car\n")
    with pytest.raises(UserError, match="26 car"):
        eachmask.data.read(tmp_path, target=PanopticMap)
