"""Cityscapes as panoptic maps: written, read back, and measured by what predict writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import eachmask
from eachmask import cli
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


def test_a_bad_line_of_the_list_is_named(tmp_path):
    (as_distributed(tmp_path) / "gtFine" / "panoptic_classes.txt").write_text("7 stuff road\n26 car\n")
    with pytest.raises(UserError, match="26 car"):
        eachmask.data.read(tmp_path, target=PanopticMap)
