from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from eachmask.structures import RLE, Polygons
from eachmask.structures.outline import trace


def test_filling_is_that_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(v) for v in rng.integers(5, 60, 2))
        parts = [
            (rng.random((rng.integers(3, 9), 2)) * (width + 8, height + 8) - 4).reshape(-1).tolist()
            for _ in range(rng.integers(1, 4))
        ]
        ours = Polygons.from_coco([parts], (height, width)).to_rle().to_coco()[0]["counts"]
        assert ours == coco.merge(coco.frPyObjects(parts, height, width))["counts"].decode()


def test_ring_with_a_hole_and_an_island_in_it():
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 1:19, 2:18] = True
    mask[0, 4:16, 5:15] = False
    mask[0, 8:11, 8:11] = True
    polygons = RLE.from_bitmaps(mask).to_polygons()
    assert len(polygons.outers[0]) == 2 and len(polygons.holes[0]) == 1
    assert np.array_equal(polygons.to_rle().decode(), mask)


def test_diagonal_neighbours_are_two_parts_and_a_diagonal_gap_one_hole():
    outer, holes = trace(np.array([[1, 0], [0, 1]], bool))
    assert len(outer) == 2 and not holes
    ring = np.ones((4, 4), bool)
    ring[1, 1] = ring[2, 2] = False
    outer, holes = trace(ring)
    assert len(outer) == 1 and len(holes) == 1


def test_a_rectangle_has_four_corners():
    outer, holes = trace(np.ones((3, 5), bool))
    assert sorted(map(tuple, outer[0].tolist())) == [(0, 0), (0, 3), (5, 0), (5, 3)] and not holes


def test_resize_scales_vertices():
    polygons = Polygons.from_coco([[[1, 1, 9, 1, 9, 5, 1, 5]]], (10, 20)).resize((20, 20))
    assert polygons.outers[0][0].tolist() == [[1, 2], [9, 2], [9, 10], [1, 10]]
    assert polygons.to_coco() == [[[1, 2, 9, 2, 9, 10, 1, 10]]]


def test_rings_of_two_points_enclose_nothing():
    assert Polygons.from_coco([[[1, 1, 5, 5]], []], (8, 8)).to_rle().area().tolist() == [0, 0]
