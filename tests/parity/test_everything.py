"""Everything mode against recorded outputs of the authors' automatic mask generator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from parity.prompted import config_of, open_prompted
from parity.recorded import recorded

from eachmask.inference.everything import Answers, everything, inclusive
from eachmask.ops.automatic_masks import crop_windows, grid_sides, point_grid, without_small_regions
from eachmask.structures import RLE
from eachmask.structures.logit_masks import paint
from eachmask.structures.soft_masks import Canvas

logic = pytest.mark.parametrize("stem", recorded("sam_automatic_logic"))


def stand_in(crop: np.ndarray) -> Any:
    """The analytic network of the recording, which reads the object's number off the image."""
    red, green, blue = (crop[..., i].astype(int) for i in range(3))
    size = crop.shape[:2]

    def asking(points: np.ndarray, least: float) -> Answers:
        numbers, logits, ious = [], [], []
        for i, (x, y) in enumerate(points):
            label = red[int(y + 1 / 64), int(x + 1 / 64)]
            masks = (red == label, (red == label) | (red == label + 1), (red == label) & (green < 128))
            for k, mask in enumerate(masks):
                iou = np.float32(0.5 + ((7 * label + 11 * k + 3 * label * k) % 50) / 100)
                if least <= 0 or iou > least:
                    numbers.append(i)
                    ious.append(iou)
                    logits.append(np.where(mask, np.where(blue < 128, 4, 0.5), -4))
        maps = torch.from_numpy(np.array(logits, np.float32).reshape(-1, *size))
        return Answers(torch.tensor(numbers).long(), maps, torch.tensor(np.array(ious)), Canvas(size, size, size, size))

    return asking


@logic
def test_logic(stem):
    fixture = open_prompted(stem)
    about = fixture.manifest["config"]
    for case, said in about["cases"].items():
        found = everything(fixture.arr("image"), stand_in, config_of(about["defaults"] | said))
        assert len(found.masks) == fixture.scalar(f"{case}.count"), case
        boxes, crops = (np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1) for b in (found.boxes, found.crops))
        for name, ours in {
            "bbox": boxes,
            "area": found.masks.area(),
            "predicted_iou": found.ious,
            "stability_score": found.stability,
            "point_coords": found.points,
            "crop_box": crops,
        }.items():
            assert fixture.compare_arr(f"{case}.{name}", ours) < 1e-6, f"{case}.{name}"
        assert fixture.compare_mask(f"{case}.segmentation", found.masks.decode())[0] == 0, case


@logic
def test_grids_and_crops(stem):
    fixture = open_prompted(stem)
    for name in fixture.manifest["arrays"]:
        if name.startswith("grid."):
            assert fixture.compare_arr(name, point_grid(int(name.split(".")[1]))) < 1e-6
    for name, said in fixture.manifest["scalars"].items():
        if name.startswith("crops."):
            _, size, layers, *overlap = name.split(".")
            height, width = (int(v) for v in size.split("x"))
            # The name has the overlap in thousandths; the default is not a whole number of them.
            share = float(".".join(overlap))
            share = 512 / 1500 if abs(share - 512 / 1500) < 1e-3 else share
            crops = crop_windows((height, width), int(layers), share)
            assert [list(c.box) for c in crops] == said["boxes"] and [c.layer for c in crops] == said["layers"]
        if name.startswith("grid_sizes."):
            side, layers, factor = (int(v) for v in name.split(".")[1:])
            assert [s**2 for s in grid_sides(side, layers, factor)] == said, json.dumps(said)


@logic
def test_parts(stem):
    fixture = open_prompted(stem)
    masks = fixture.mask("parts.masks")
    assert inclusive(RLE.from_bitmaps(masks)).tolist() == fixture.arr("parts.boxes").tolist()
    logits = torch.from_numpy(fixture.arr("parts.logits")).float()
    size = tuple(logits.shape[1:])
    for name in fixture.manifest["arrays"]:
        if name.startswith("parts.stability."):
            offset = float(name.removeprefix("parts.stability."))
            inner, outer = paint(logits, Canvas(size, size, size, size), (offset, -offset)).areas.T
            with np.errstate(invalid="ignore"):
                assert fixture.compare_arr(name, inner / outer) < 1e-6
    for name in fixture.manifest["masks"]:
        if name.startswith(("parts.holes.", "parts.islands.")):
            _, kind, least = name.split(".")
            tidy = [without_small_regions(m, int(least), kind == "holes") for m in fixture.mask("parts.crumbs")]
            assert fixture.compare_mask(name, np.stack([mask for mask, _ in tidy]))[0] == 0, name
            assert [changed for _, changed in tidy] == fixture.scalar(f"{name}.changed")
