"""Shapes as the tools that draw them write them: each is read, or told with its reason."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign_sets import SQUARE, image, labels

from eachmask.data import Dataset, read

CORNERS = np.reshape(SQUARE, (-1, 2)).tolist()
PERCENT = (np.array(CORNERS) * 100 / [64, 48]).tolist()


def said(data: Dataset) -> str:
    return "\n".join(map(str, data.problems))


def areas(data: Dataset) -> list[list[int]]:
    split = data.splits["all"]
    return [split.targets(i).masks.area().tolist() for i in range(len(split))]


# YOLO -----------------------------------------------------------------------------------------------


def test_numbers_of_tracks_behind_tabs(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    lines = [[n, 0.1, 0.1, 0.3, 0.1, 0.3, 0.4, 7 + n] for n in (0, 1)]
    (tmp_path / "a.txt").write_text("\n".join("\t".join(map(str, line)) for line in lines))
    (tmp_path / "classes.txt").write_text("nut\nbolt")
    data = read(tmp_path)
    assert labels(data) == [["nut", "bolt"]] and "numbers of tracks" in said(data)


# CVAT -----------------------------------------------------------------------------------------------


def test_points_of_tracks_are_told(tmp_path: Path) -> None:
    for number in range(2):
        image(tmp_path / f"images/frame_{number:06d}.png")
    points = ";".join(f"{x},{y}" for x, y in CORNERS)
    shapes = [
        f'<track label="nut"><polygon frame="0" outside="0" points="{points}"/></track>',
        '<track label="tip"><points frame="0" outside="0" points="3,3"/><points frame="1" outside="1"/></track>',
        '<track label="arm"><skeleton frame="1"><points label="a" outside="0" points="3,3"/></skeleton></track>',
    ]
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(shapes)}</annotations>")
    data = read(tmp_path)
    assert labels(data) == [["nut"], []] and [c.name for c in data.categories] == ["nut"]
    assert "points 2 of frame_000000.png: a points has no area" in said(data)
    assert "skeleton 1 of frame_000001.png: a skeleton has no area" in said(data)


# LabelMe --------------------------------------------------------------------------------------------


def labelme(folder: Path, *shapes: dict[str, Any]) -> Dataset:
    image(folder / "a.png")
    content = {"shapes": list(shapes), "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64}
    (folder / "a.json").write_text(json.dumps(content))
    return read(folder)


def test_a_quadrilateral_is_an_outline(tmp_path: Path) -> None:
    assert areas(labelme(tmp_path, {"label": "nut", "shape_type": "quadrilateral", "points": CORNERS})) == [[225]]


def test_shapes_that_are_not_known_are_no_lines(tmp_path: Path) -> None:
    odd = {"label": "nut", "shape_type": "ellipse", "points": CORNERS[:3]}
    data = labelme(tmp_path, odd, {"label": "nut", "points": CORNERS})
    assert areas(data) == [[225]] and data.problems[0].severity == "error"
    assert "shape 1: it cannot be read (shapes of the type 'ellipse' are not known)" in said(data)


# Label Studio ---------------------------------------------------------------------------------------


def region(kind: str, names: list[str], **value: Any) -> dict[str, Any]:
    value = value or {"points": PERCENT}
    size = {"original_width": 64, "original_height": 48, "from_name": "x", "id": "a"}
    return {**size, "type": kind, "value": {**value, kind: names}}


def label_studio(folder: Path, *regions: dict[str, Any], **task: Any) -> Dataset:
    image(folder / "a.png")
    own = {"annotations": [{"result": list(regions)}], **task}
    (folder / "export.json").write_text(json.dumps([{"data": {"image": "a.png"}, **own}]))
    return read(folder)


def bit_mask(channels: int) -> dict[str, Any]:
    pixels = np.zeros((48, 64, channels), np.uint8)
    pixels[5:20, 5:20, -1] = 255
    text = base64.b64encode(cv2.imencode(".png", pixels)[1]).decode()
    return region("bitmasklabels", ["nut"], imageDataURL=f"data:image/png;base64,{text}")


def test_bit_masks(tmp_path: Path) -> None:
    data = label_studio(tmp_path, bit_mask(4))
    assert labels(data) == [["nut"]] and areas(data) == [[225]] and not data.problems


def test_bit_masks_without_transparency_are_named(tmp_path: Path) -> None:
    assert "its imageDataURL is no PNG with transparency" in said(label_studio(tmp_path, bit_mask(3)))


@pytest.mark.parametrize(
    ("names", "wanted", "told"),
    [([], "object", "regions without a label: 1"), (["nut", "bolt"], "nut", "regions with several labels: 1")],
)
def test_regions_of_no_label_or_several(tmp_path: Path, names: list[str], wanted: str, told: str) -> None:
    data = label_studio(tmp_path, region("polygonlabels", names))
    assert labels(data) == [[wanted]] and told in said(data)


def test_tasks_that_were_skipped_are_told(tmp_path: Path) -> None:
    shape = region("polygonlabels", ["nut"])
    cancelled = {"result": [shape], "was_cancelled": True}
    skipped = label_studio(tmp_path, annotations=[cancelled])
    assert areas(skipped) == [[]] and "nobody has annotated, or that were skipped: 1" in said(skipped)
    nothing = {"result": []}  # was found there by somebody
    assert not label_studio(tmp_path, annotations=[cancelled, nothing]).problems
