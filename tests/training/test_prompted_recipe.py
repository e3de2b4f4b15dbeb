"""Models that answer prompts alone train by name, and are measured by their answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import SIZE, make_set, shapes

import eachmask
from eachmask.cli import main
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.recipes.prompted import ask_extremes, ask_points, score
from eachmask.structures import RLE, Instances, Prompts
from eachmask.weights.file import read_info


def targets() -> Instances:
    masks = RLE.from_bitmaps(shapes())
    return Instances(SIZE, torch.from_numpy(masks.boxes()), masks)


def order() -> list[int]:
    """The objects, largest first."""
    return np.argsort(-shapes().sum((1, 2)), kind="stable").tolist()


def test_objects_are_asked_for_in_the_order_of_their_size():
    said = ask_points(targets())
    assert said.point_objects.tolist() == [0, 1, 2, 3]
    for mask, (x, y) in zip(shapes()[order()], said.points.tolist(), strict=True):
        assert mask[int(y), int(x)]
    for mask, extremes in zip(shapes()[order()], ask_extremes(targets()).extremes, strict=True):
        ys, xs = np.nonzero(mask)
        assert extremes[0, 0] == xs.min() + 0.5 and extremes[1, 0] == xs.max() + 0.5
        assert extremes[2, 1] == ys.min() + 0.5 and extremes[3, 1] == ys.max() + 0.5
    assert len(ask_points(targets()[:0])) == len(ask_extremes(targets()[:0])) == 1


def test_answers_count_where_they_belong():
    found = replace(targets()[order()], scores=torch.ones(4), track_ids=torch.arange(4))
    assert score([found], [targets()]) == {"iou": 1.0, "above_85": 1.0}
    assert score([found[:1]], [targets()])["iou"] == 0.25
    swapped = replace(found, track_ids=torch.tensor([1, 0, 3, 2]))
    assert score([swapped], [targets()])["iou"] == 0
    assert score([found[:0]], [targets()[:0]])["iou"] == 0


@pytest.mark.parametrize("variant", ["ritm_lite0", "dextr_lite0"])
def test_by_name(variant: str, tmp_path: Path):
    write_coco_folder(tmp_path / "set", make_set(tmp_path / "images"))
    quick = ["--steps", "1", "--batch", "2", "--size", "64", "--start", "none", "--device", "cpu"]
    assert main(["train", variant, "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run"), *quick]) == 0
    assert {"val iou", "val above_85"} <= set(read_info(tmp_path / "run" / "model.safetensors").scores)
    predictor = eachmask.load(tmp_path / "run", device="cpu")
    prompts = Prompts(SIZE, extremes=[[[5, 15], [30, 15], [15, 5], [15, 30]]])
    if variant == "ritm_lite0":
        prompts = Prompts(SIZE, points=[[20, 20]])
    found = predictor.predict(np.zeros((*SIZE, 3), np.uint8), prompts)
    assert found.image_size == SIZE
