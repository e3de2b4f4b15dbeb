"""Segmentations by compiled calls: the same pixels as pycocotools, whatever the shape of the polygon."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eachmask.data.formats.segmentations import rasterize, rasterize_one, rasterize_readable
from eachmask.structures import RLE, Polygons

SIZES = [(1, 1), (20, 30), (64, 48), (7, 90)]


def _ring(rng: np.random.Generator, size: tuple[int, int], num_points: int) -> list[float]:
    """Its vertices lie in the image and around it; every other ring has whole numbers."""
    points = rng.uniform(-0.4, 1.4, (num_points, 2)) * [size[1], size[0]]
    return (points.round() if num_points % 2 else points).ravel().tolist()


def _rows(rng: np.random.Generator, size: tuple[int, int]) -> list[dict[str, Any]]:
    runs = RLE.from_bitmaps(rng.random((1, *size)) < 0.3)
    several = [[_ring(rng, size, int(n)) for n in rng.integers(3, 12, k)] for k in (1, 1, 2, 3, 1)]
    plain = {"size": list(size), "counts": runs.counts.tolist()}
    return [{"segmentation": s} for s in [*several, runs.to_coco()[0], plain]]


def test_masks_equal_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    images = [(_rows(rng, size), size) for size in SIZES * 20]
    for (rows, size), found in zip(images, rasterize(images), strict=True):
        assert found is not None
        expected = [coco.frPyObjects(row["segmentation"], *size) for row in rows[:5]]
        expected = [coco.merge(rles) for rles in expected] + [rows[5]["segmentation"]] * 2
        assert [row["counts"] for row in found.masks.to_coco()[:5]] == [w["counts"].decode() for w in expected[:5]]
        assert [row["counts"] for row in found.masks.to_coco()[5:]] == [w["counts"] for w in expected[5:]]
        assert np.array_equal(found.area, coco.area(expected))
        assert np.array_equal(found.area, found.masks.area())
        assert np.array_equal(found.boxes, found.masks.boxes())


def test_rings_of_two_points_enclose_nothing_and_boxes_stand_in() -> None:
    rows = [
        {"segmentation": [[1, 1, 8, 8]]},
        {"segmentation": [[1, 1, 8, 8], [2, 3, 6, 3, 6, 5, 2, 5]]},
        {"segmentation": None, "bbox": [2, 3, 4, 2]},
    ]
    found = rasterize_one(rows, (20, 30))
    assert found.area.tolist() == [0, 8, 8]
    assert found.boxes.tolist() == [[0, 0, 0, 0], [2, 3, 6, 5], [2, 3, 6, 5]]


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        ([[1, 2, 3, 4, 5]], "5 numbers, but x and y come in pairs"),
        ([[1, 2, 3, 4, 1e9, 6]], "cannot belong to an image"),
        ([[1, 2, 3, 4, float("nan"), 6]], "cannot belong to an image"),
        ({"size": [20, 30], "counts": [1, 2]}, "the canvas is 20 x 30"),
        ({"size": [3, 3], "counts": [9]}, "expected"),
    ],
)
def test_mistakes_are_named_and_other_images_are_read(segmentation: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rasterize_one([{"segmentation": segmentation}], (20, 30))
    good = [{"segmentation": [[2, 3, 6, 3, 6, 5, 2, 5]]}]
    first, second = rasterize([([*good, {"segmentation": segmentation}], (20, 30)), (good, (9, 9))])
    assert first is None and second is not None and second.area.tolist() == [8]


def test_an_absurdly_large_number_is_a_mistake_like_any_other() -> None:
    assert list(rasterize([([{"segmentation": [[10**400, 1, 2, 3, 4, 5]]}], (20, 30))])) == [None]


def _odd_rings(rng: np.random.Generator, size: tuple[int, int]) -> list[list[float]]:
    """Rings that enclose nothing, themselves twice, or the whole image; and ordinary ones."""
    height, width = size
    x, y = rng.uniform(0, 1, 2) * [width, height]
    line = np.stack([np.linspace(0, width, 5), np.linspace(0, height, 5)], 1).ravel().tolist()
    return [
        [],
        [x, y, x + 1, y + 1],
        [x, y] * 3,
        line,
        line + line[::-1],
        [0, 0, width, 0, width, height, 0, height],
        [-width, -height, 2 * width, -height, 2 * width, 2 * height, -width, 2 * height],
        [-5, -5, -1, -5, -1, -1],
        [x, y, x, height, x, y, width, y, x, y],
        _ring(rng, size, 3),
        _ring(rng, size, 4),
        _ring(rng, size, 40) * 2,
    ]


def test_the_fast_path_gives_the_runs_that_polygons_give() -> None:
    rng = np.random.default_rng(1)
    images = [(i, [{"segmentation": [r]} for r in _odd_rings(rng, size)], size) for i, size in enumerate(SIZES * 10)]
    for number, (i, drawn, mistakes) in enumerate(rasterize_readable(images)):
        _, rows, size = images[number]
        slow = Polygons.from_coco([row["segmentation"] for row in rows], size).to_rle()
        assert i == number and not mistakes.unread
        assert drawn.masks.size == size
        assert np.array_equal(drawn.masks.counts, slow.counts) and np.array_equal(drawn.masks.offsets, slow.offsets)
        assert np.array_equal(drawn.area, slow.area()) and np.array_equal(drawn.boxes, slow.boxes())


def test_annotations_keep_their_places_beside_mistakes_and_images_their_own() -> None:
    good = {"segmentation": [[2, 3, 6, 3, 6, 5, 2, 5]]}
    odd, far = {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, {"segmentation": [[1, 2, 3, 4, 1e9, 6]]}
    # several batches, a mistake here and there
    images = [(f"{i}", [good] * (i % 5) + [odd, good, far] * (i % 7 == 3), (9, 20 + i)) for i in range(400)]
    found = list(rasterize_readable(iter(images)))
    assert [known for known, _, _ in found] == [name for name, _, _ in images]
    for (_, rows, size), (_, drawn, mistakes) in zip(images, found, strict=True):
        assert drawn.masks.size == size
        assert drawn.area.tolist() == [8 if row is good else 0 for row in rows]
        assert sorted(mistakes.unread) == [i for i, row in enumerate(rows) if row is not good]
        assert all("pairs" in why or "cannot belong" in why for why in mistakes.unread.values())
