from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from eachmask.structures import RLE


def random_masks(seed: int, rounds: int = 150):
    """Masks of every kind: empty, full, one pixel, noise, no masks at all."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        height, width = rng.integers(1, 30, 2)
        num = rng.integers(0, 5)
        yield rng.random((num, height, width)) < rng.choice([0, 0.05, 0.5, 0.9, 1])


def theirs(masks: np.ndarray) -> list[dict]:
    return coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []


@pytest.mark.parametrize("chunk_size", [1, 50, 1 << 18])
def test_strings_are_those_of_pycocotools(chunk_size, monkeypatch):
    monkeypatch.setattr("eachmask.structures.rle_codec._RUNS_CHUNK_SIZE", chunk_size)
    for masks in random_masks(0):
        rle = RLE.from_bitmaps(masks)
        assert [r["counts"] for r in rle.to_coco()] == [r["counts"].decode() for r in theirs(masks)]
        back = RLE.from_coco(rle.to_coco(), rle.size)
        assert np.array_equal(back.counts, rle.counts) and np.array_equal(back.offsets, rle.offsets)
        assert np.array_equal(back.decode(), masks)


def test_long_runs_need_many_groups_and_both_signs():
    mask = np.zeros((1, 3000, 2000), bool)
    mask[0, 7:2900:3, 5] = mask[0, 100:200, 900:] = True
    mask[0, :, 1500] = True
    rle = RLE.from_bitmaps(mask)
    assert rle.to_coco()[0]["counts"] == theirs(mask)[0]["counts"].decode()
    assert np.array_equal(RLE.from_coco(rle.to_coco()).decode(), mask)


def test_counts_may_come_as_bytes_or_lists():
    mask = np.zeros((2, 4, 5), bool)
    mask[0, 1:3, 2], mask[1, 0, 0] = True, True
    rle = RLE.from_bitmaps(mask)
    listed = {"size": [4, 5], "counts": [9, 2, 9]}
    assert np.array_equal(RLE.from_coco([listed, rle.to_coco()[1]]).decode(), mask)
    assert np.array_equal(RLE.from_coco(theirs(mask)).decode(), mask)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"size": [4, 5], "counts": "1"}, "runs, but the canvas"),
        ({"size": [4, 5], "counts": "P"}, "middle of a number"),
        ({"size": [4, 5], "counts": "~"}, "never writes"),
        ({"size": [4, 5], "counts": "Po00"}, "runs, but the canvas"),
        ({"size": [4, 5], "counts": "oooooooooooo1"}, "too large"),
        ({"size": [4, 5], "counts": "4O"}, "negative length"),
        ({"size": [4, 5], "counts": "é"}, "ascii"),
        ({"size": [4, 5], "counts": [3, 4]}, "has 7 pixels in its runs, but the canvas is 4 x 5"),
        ({"size": [4, 5], "counts": [25, -5]}, "none of them negative"),
        ({"size": [4, 5], "counts": [10.5, 9.5]}, "whole numbers"),
        ({"size": [4, 5], "counts": [1 << 40]}, "whole numbers"),
    ],
)
def test_broken_counts_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        RLE.from_coco([broken])


def test_the_canvas_must_be_known_and_one():
    with pytest.raises(ValueError, match="must be given"):
        RLE.from_coco([])
    with pytest.raises(ValueError, match="mask 1 is on"):
        RLE.from_coco([{"size": [4, 5], "counts": [20]}, {"size": [5, 4], "counts": [20]}])
    assert RLE.from_coco([{"counts": [20]}], (4, 5)).size == (4, 5)
    assert len(RLE.from_coco([], (4, 5))) == 0


def test_arrays_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        RLE.from_bitmaps(np.ones((4, 5), bool))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        RLE.from_label_map(np.ones((1, 4, 5), int))


def test_area_and_boxes_are_those_of_pycocotools():
    for masks in random_masks(1):
        if not len(masks):
            continue
        boxes = coco.toBbox(theirs(masks))
        boxes[:, 2:] += boxes[:, :2]
        rle = RLE.from_bitmaps(masks)
        assert np.array_equal(rle.boxes(), boxes) and np.array_equal(rle.area(), masks.sum((1, 2)))


def test_moves_equal_numpy():
    for masks in random_masks(2):
        rle = RLE.from_bitmaps(masks)
        assert np.array_equal(rle.flip().decode(), masks[:, :, ::-1])
        assert np.array_equal(rle.flip(horizontal=False).decode(), masks[:, ::-1])
        assert np.array_equal(rle.pad((1, 2, 3, 4)).decode(), np.pad(masks, ((0, 0), (2, 4), (1, 3))))
        assert np.array_equal(rle.union().decode()[0], masks.any(0))
        height, width = masks.shape[1:]
        y, x = height // 3, width // 4
        assert np.array_equal(rle.crop((x, y, width, height)).decode(), masks[:, y:, x:])
        assert np.array_equal(rle[::-1].decode(), masks[::-1])


def test_a_window_may_leave_the_canvas():
    masks = np.ones((1, 4, 6), bool)
    window = RLE.from_bitmaps(masks).crop((-2, 1, 3, 9))
    assert window.size == (8, 5)
    expected = np.zeros((8, 5), bool)
    expected[:3, 2:] = True
    assert np.array_equal(window.decode()[0], expected)
    with pytest.raises(ValueError, match="empty"):
        RLE.from_bitmaps(masks).crop((2, 2, 2, 4))


def test_iou_and_intersection_with_few_and_with_many_neighbors():
    rng = np.random.default_rng(3)
    for size in (4, 30):  # far apart: pair by pair; crowded: compiled, all with all
        sets = []
        for num in (25, 20):
            masks = np.zeros((num, 90, 100), bool)
            for mask in masks:
                y, x = rng.integers(0, 88), rng.integers(0, 98)
                window = mask[y : y + size, x : x + size]
                window[:] = rng.random(window.shape) < 0.7
            sets.append(masks)
        a, b = sets
        common = (a[:, None] & b[None]).sum((2, 3))
        union = (a[:, None] | b[None]).sum((2, 3))
        first, second = RLE.from_bitmaps(a), RLE.from_bitmaps(b)
        assert np.array_equal(first.intersection(second), common)
        assert np.allclose(first.iou(second), common / np.maximum(union, 1))


def test_iou_of_different_images_is_an_error():
    with pytest.raises(ValueError, match="not of the same image"):
        RLE.empty((3, 4)).iou(RLE.empty((4, 3)))


def test_label_maps_both_ways():
    for masks in random_masks(4):
        labels = RLE.from_bitmaps(masks).to_label_map()
        expected = np.zeros(masks.shape[1:], int)
        for i in reversed(range(len(masks))):
            expected[masks[i]] = i + 1
        assert np.array_equal(labels, expected)
        values = np.unique(labels[labels > 0])
        assert np.array_equal(RLE.from_label_map(labels).decode(), labels[None] == values[:, None, None])


def test_label_map_values_may_have_gaps_and_negatives_are_background():
    labels = np.array([[7, 7, 0], [-1, 3, 3]])
    rle = RLE.from_label_map(labels)
    assert len(rle) == 2 and rle.area().tolist() == [2, 2]
    assert rle.boxes().tolist() == [[1, 1, 3, 2], [0, 0, 2, 1]]


def test_bitmaps_and_polygons_give_the_same_pixels_back():
    for masks in random_masks(5):
        rle = RLE.from_bitmaps(masks)
        assert np.array_equal(rle.to_bitmaps().to_rle().decode(), masks)
        assert np.array_equal(rle.to_polygons().to_rle().decode(), masks)


def test_resize_keeps_size_position_and_identity():
    ys, xs = np.mgrid[:60, :80]
    mask = ((ys - 30) ** 2 + (xs - 50) ** 2 <= 15**2)[None]
    rle = RLE.from_bitmaps(mask)
    assert rle.resize((60, 80)) is rle
    double = rle.resize((120, 160))
    assert double.area()[0] == pytest.approx(4 * mask.sum(), rel=0.02)
    assert double.boxes()[0] == pytest.approx(2 * rle.boxes()[0], abs=1)
    assert double.resize((60, 80)).iou(rle)[0, 0] > 0.97
    assert rle.resize((30, 120)).size == (30, 120)


def test_indexing():
    rle = RLE.from_bitmaps(np.eye(4, dtype=bool).reshape(4, 2, 2))
    assert len(rle[1]) == 1 and len(rle[[]]) == 0 and len(rle[1:3]) == 2
    assert np.array_equal(rle[np.array([True, False, False, True])].decode(), rle.decode()[[0, 3]])
    assert np.array_equal(rle[-1].decode(), rle.decode()[[3]])
    with pytest.raises(IndexError):
        rle[np.array([True])]
    with pytest.raises(IndexError):
        rle[4]


def test_cat_and_empty():
    a, b = RLE.from_bitmaps(np.ones((2, 3, 3), bool)), RLE.empty((3, 3))
    assert len(RLE.cat([a, b, a])) == 4
    assert b.area().shape == (0,) and b.boxes().shape == (0, 4) and len(b.union()) == 1
    assert b.to_label_map().shape == (3, 3) and b.iou(a).shape == (0, 2)
    with pytest.raises(ValueError, match="nothing to join"):
        RLE.cat([])


def test_thousands_of_objects_on_a_large_canvas_cost_no_canvas_each():
    labels = np.zeros((2000, 2000), np.int32)
    for i in range(2500):
        y, x = divmod(i, 50)
        labels[y * 40 : y * 40 + 25, x * 40 : x * 40 + 30] = i + 1
    rle = RLE.from_label_map(labels)
    assert len(rle) == 2500 and rle.counts.nbytes < 2e6
    assert np.array_equal(rle.to_label_map(), labels)
    assert np.array_equal(rle.to_bitmaps().to_rle().counts, rle.counts)
    assert np.array_equal(rle.to_polygons().to_rle().counts, rle.counts)
    assert np.array_equal(rle.iou(rle) > 0.5, np.eye(2500, dtype=bool))
