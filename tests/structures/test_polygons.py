from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from eachmask.structures import RLE, Polygons


def traced(bitmap: np.ndarray) -> Polygons:
    return RLE.from_bitmaps(np.asarray(bitmap, bool)[None]).to_polygons()


def random_parts(rng: np.random.Generator, height: int, width: int, beyond: float) -> list[list[float]]:
    low, high = -beyond, np.array([width, height]) + beyond
    return [
        (low + rng.random((rng.integers(3, 9), 2)) * (high - low)).reshape(-1).tolist()
        for _ in range(rng.integers(1, 4))
    ]


@pytest.mark.parametrize("beyond", [0, 4, 90])
def test_filling_is_that_of_pycocotools(beyond):
    rng = np.random.default_rng(beyond)
    for _ in range(60):
        height, width = (int(v) for v in rng.integers(5, 60, 2))
        masks = [random_parts(rng, height, width, beyond) for _ in range(rng.integers(1, 5))]
        ours = Polygons.from_coco(masks, (height, width)).to_rle().to_coco()
        theirs = [coco.merge(coco.frPyObjects(parts, height, width))["counts"].decode() for parts in masks]
        assert [rle["counts"] for rle in ours] == theirs


def test_filling_of_real_annotations_is_that_of_pycocotools(shared: Path):
    record = json.loads((shared / "data/coco-mini/instances_val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in record["images"]}
    outlined = [a for a in record["annotations"] if isinstance(a["segmentation"], list)]
    compared = 0
    for image, size in sizes.items():
        parts = [a["segmentation"] for a in outlined if a["image_id"] == image]
        ours = Polygons.from_coco(parts, size).to_rle().to_coco()
        theirs = [coco.merge(coco.frPyObjects(p, *size))["counts"].decode() for p in parts]
        assert [rle["counts"] for rle in ours] == theirs
        compared += len(parts)
    assert compared > 1000


def test_ring_with_a_hole_and_an_island_in_it():
    mask = np.zeros((20, 20), bool)
    mask[1:19, 2:18] = True
    mask[4:16, 5:15] = False
    mask[8:11, 8:11] = True
    polygons = traced(mask)
    assert len(polygons.outers[0]) == 2 and len(polygons.holes[0]) == 1
    assert np.array_equal(polygons.to_rle().decode()[0], mask)


def test_outlines_are_exact_on_a_large_canvas():
    mask = np.zeros((3001, 4003), bool)
    rng = np.random.default_rng(0)
    mask[2950:, 3950:] = rng.random((51, 53)) < 0.6
    mask[0, :] = mask[:, 0] = True
    mask[1000:2000, 1000:2000] = rng.random((1000, 1000)) < 0.001
    rle = RLE.from_bitmaps(mask[None])
    assert np.array_equal(rle.to_polygons().to_rle().counts, rle.counts)


def test_masks_with_and_without_holes_are_filled_side_by_side():
    square = np.array([[2, 2], [12, 2], [12, 12], [2, 12]], float)
    small = np.array([[4, 4], [8, 4], [8, 8], [4, 8]], float)
    polygons = Polygons([[square], [], [square, small], [square]], [[small], [], [], []], (20, 20))
    assert polygons.to_rle().area().tolist() == [84, 0, 100, 100]
    assert polygons[::-1].to_rle().area().tolist() == [100, 100, 0, 84]


def test_diagonal_neighbors_are_two_parts_and_a_diagonal_gap_one_hole():
    for bitmap in (np.eye(2), np.eye(2)[::-1]):
        polygons = traced(bitmap)
        assert len(polygons.outers[0]) == 2 and not polygons.holes[0]
        ring = np.pad(1 - bitmap, 1, constant_values=1)
        polygons = traced(ring)
        assert len(polygons.outers[0]) == 1 and len(polygons.holes[0]) == 1
        assert len(polygons.holes[0][0]) == 8


def test_rings_begin_at_the_upper_left_and_run_clockwise():
    assert traced(np.ones((3, 5))).outers[0][0].tolist() == [[0, 0], [5, 0], [5, 3], [0, 3]]
    frame = np.pad(np.zeros((2, 2)), 1, constant_values=1)
    assert traced(frame).holes[0][0].tolist() == [[1, 1], [3, 1], [3, 3], [1, 3]]


def test_resize_scales_vertices():
    polygons = Polygons.from_coco([[[1, 1, 9, 1, 9, 5, 1, 5]]], (10, 20)).resize((20, 20))
    assert polygons.outers[0][0].tolist() == [[1, 2], [9, 2], [9, 10], [1, 10]]
    assert polygons.to_coco() == [[[1, 2, 9, 2, 9, 10, 1, 10]]]


def test_rings_of_two_points_enclose_nothing():
    assert Polygons.from_coco([[[1, 1, 5, 5]], []], (8, 8)).to_rle().area().tolist() == [0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9, -1e9])
def test_vertices_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="cannot belong to an image of 8 x 9"):
        Polygons.from_coco([[[1, 1, 5, bad, 3, 3]]], (8, 9)).to_rle()


def test_broken_rings_are_refused():
    with pytest.raises(ValueError):
        Polygons.from_coco([[[1, 1, 5]]], (8, 8))
    with pytest.raises(ValueError, match=r"\(K, 2\)"):
        Polygons([[np.zeros((3, 3))]], (), (8, 8))
    with pytest.raises(ValueError, match="holes of 2"):
        Polygons([[]], [[], []], (8, 8))
