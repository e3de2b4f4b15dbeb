"""Every format that holds outlines gives the pixels that pycocotools gives for them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from eachmask.data.reading import format_named

SIZE = (64, 128)
"""Shares of powers of two are exact: YOLO's text says the same places as the others."""
NAMES = [f"{i:03d}" for i in range(40)]


def _rings(image: int) -> list[NDArray[np.float64]]:
    """Ten rings to a quarter of a pixel, some of which leave the image."""
    rng = np.random.default_rng(image)
    return [rng.integers(-40, 600, (int(n), 2)) / 4 % [160, 80] - [16, 8] for n in rng.integers(3, 40, 10)]


def _write(folder: Path, name: str) -> None:
    height, width = SIZE
    images = {"yolo": "images/train", "cvat": "images", "labelme": "train"}[name]
    (folder / images).mkdir(parents=True)
    if name == "yolo":
        (folder / "labels/train").mkdir(parents=True)
        (folder / "data.yaml").write_text("train: images/train\nnames: [a]\n")
    pages = []
    for i, stem in enumerate(NAMES):
        cv2.imwrite(str(folder / images / f"{stem}.png"), np.zeros(SIZE, np.uint8))
        rings = _rings(i)
        if name == "yolo":
            lines = ["0 " + " ".join(map(str, (ring / [width, height]).ravel())) for ring in rings]
            (folder / f"labels/train/{stem}.txt").write_text("\n".join(lines))
        elif name == "labelme":
            shapes = [{"label": "a", "shape_type": "polygon", "points": ring.tolist()} for ring in rings]
            content = {"shapes": shapes, "imagePath": f"{stem}.png", "imageHeight": height, "imageWidth": width}
            (folder / images / f"{stem}.json").write_text(json.dumps(content))
        else:
            outlines = [";".join(f"{x},{y}" for x, y in ring) for ring in rings]
            shapes = [f'<polygon label="a" points="{points}"/>' for points in outlines]
            pages.append(f'<image name="{stem}.png" width="{width}" height="{height}">{"".join(shapes)}</image>')
    if pages:
        (folder / "annotations.xml").write_text(f"<annotations>{''.join(pages)}</annotations>")


@pytest.mark.parametrize("name", ["yolo", "cvat", "labelme"])
def test_pixels_are_those_of_pycocotools(tmp_path: Path, name: str) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    _write(tmp_path, name)
    data = format_named(name).read(tmp_path, lambda what, items: items)
    images = sorted((image for _, image in data.images()), key=lambda image: image.name)
    assert [image.stem for image in images] == NAMES
    empty = outside = 0
    for i, image in enumerate(images):
        rles = coco.frPyObjects([ring.ravel().tolist() for ring in _rings(i)], *SIZE)
        expected = [rle for rle in rles if coco.area(rle)]
        empty += len(rles) - len(expected)
        far = [bool((np.maximum(-ring, ring - np.array(SIZE[::-1])) > 1).any()) for ring in _rings(i)]
        outside += sum(f for f, rle in zip(far, rles, strict=True) if coco.area(rle))
        masks = image.targets.masks
        assert masks is not None
        assert [row["counts"].encode() for row in masks.to_rle().to_coco()] == [rle["counts"] for rle in expected]
        x, y, w, h = coco.toBbox(expected).T
        assert np.array_equal(image.targets.boxes.numpy(), np.stack([x, y, x + w, y + h], 1))
    assert len(data.problems) == empty + outside
    assert sum(problem.kind == "outside" for problem in data.problems) == outside > 0
