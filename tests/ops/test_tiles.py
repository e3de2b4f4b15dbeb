from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from eachmask.ops.tiles import _groups, merge_tiles, sliding_boxes, tile_boxes
from eachmask.structures import RLE, Instances


def as_instances(label: np.ndarray, names: list[int] | None = None) -> Instances:
    masks = RLE.from_label_map(label)
    return Instances(
        image_size=label.shape,
        boxes=torch.from_numpy(masks.boxes()),
        masks=masks,
        labels=torch.tensor(names if names is not None else [0] * len(masks), dtype=torch.int64),
        scores=torch.linspace(0.9, 0.5, len(masks)),
    )


def seen_through(label: np.ndarray, tiles: list[tuple[int, int, int, int]]) -> list[Instances]:
    """What a flawless detector finds in each tile, on the whole canvas."""
    parts = []
    for x1, y1, x2, y2 in tiles:
        window = np.zeros_like(label)
        window[y1:y2, x1:x2] = label[y1:y2, x1:x2]
        parts.append(as_instances(window))
    return parts


def check(found: Instances, label: np.ndarray) -> None:
    gt = RLE.from_label_map(label)
    assert len(found) == len(gt)
    iou = found.masks.iou(gt)
    assert np.allclose(iou.max(0), 1) and np.allclose(iou.max(1), 1)
    assert (found.scores.diff() <= 0).all()
    assert torch.equal(found.boxes, torch.from_numpy(found.masks.boxes()))


@pytest.mark.parametrize(("size", "tile"), [((100, 100), 64), ((64, 300), 64), ((40, 50), 64), ((131, 257), 50)])
def test_tiles_cover_overlap_and_stay_inside(size, tile):
    boxes = tile_boxes(size, tile, 0.25)
    count = np.zeros(size, int)
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]
        assert x2 - x1 == min(tile, size[1]) and y2 - y1 == min(tile, size[0])
        count[y1:y2, x1:x2] += 1
    assert count.min() >= 1
    columns = sorted({b[0] for b in boxes})
    assert all(b - a <= tile * 0.75 for a, b in zip(columns[:-1], columns[1:], strict=True))


def test_tiles_of_two_sides():
    assert tile_boxes((100, 180), (50, 180), 0.0) == [(0, 0, 180, 50), (0, 50, 180, 100)]


def test_sliding_windows_keep_their_stride_but_for_the_last():
    boxes = sliding_boxes((50, 100), (40, 30), (25, 20))
    assert sorted({x1 for x1, *_ in boxes}) == [0, 20, 40, 60, 70] and sorted({y1 for _, y1, *_ in boxes}) == [0, 10]
    assert all((x2 - x1, y2 - y1) == (30, 40) for x1, y1, x2, y2 in boxes)
    assert sliding_boxes((20, 20), (40, 40), (10, 10)) == [(0, 0, 20, 20)]
    with pytest.raises(ValueError, match="leave gaps"):
        sliding_boxes((50, 50), (20, 20), (30, 10))


def test_impossible_tiles_are_refused():
    with pytest.raises(ValueError, match="cannot cover"):
        tile_boxes((10, 10), 0)
    with pytest.raises(ValueError, match="cannot cover"):
        tile_boxes((10, 10), 5, 1.0)


def test_one_object_over_four_tiles_is_one():
    label = np.zeros((200, 200), int)
    ys, xs = np.mgrid[:200, :200]
    label[(ys - 100) ** 2 + (xs - 100) ** 2 <= 70**2] = 1
    tiles = tile_boxes((200, 200), 120, 0.3)
    assert len(tiles) == 4
    check(merge_tiles(seen_through(label, tiles), tiles), label)


def test_an_object_longer_than_any_tile():
    label = np.zeros((60, 900), int)
    label[20:40, 10:890] = 1
    tiles = tile_boxes((60, 900), 100, 0.2)
    check(merge_tiles(seen_through(label, tiles), tiles), label)


def test_touching_objects_in_the_overlap_stay_apart():
    label = np.zeros((100, 180), int)
    label[20:50, 70:95], label[50:80, 70:95], label[20:80, 95:110] = 1, 2, 3
    tiles = tile_boxes((100, 180), 100, 0.2)
    check(merge_tiles(seen_through(label, tiles), tiles), label)


def test_crossing_thin_objects_stay_two():
    label_a, label_b = np.zeros((100, 180), int), np.zeros((100, 180), int)
    label_a[48:52, 10:170] = 1
    label_b[5:95, 88:92] = 1
    tiles = tile_boxes((100, 180), 100, 0.2)
    parts = [
        Instances.cat([a, b]) if len(a) and len(b) else (a if len(a) else b)
        for a, b in zip(seen_through(label_a, tiles), seen_through(label_b, tiles), strict=True)
    ]
    found = merge_tiles(parts, tiles)
    gt = RLE.cat([RLE.from_label_map(label_a), RLE.from_label_map(label_b)])
    assert len(found) == 2 and np.allclose(found.masks.iou(gt).max(0), 1)


def test_tiles_that_disagree_leave_no_duplicates():
    """Two halves to three tiles are one thing to the fourth: none of it may be there twice."""
    halves, fused = np.zeros((150, 150), int), np.zeros((150, 150), int)
    halves[60:90, 62:74], halves[60:90, 76:88] = 1, 2
    fused[60:90, 62:88] = 1
    tiles = tile_boxes((150, 150), 100, 0.45)
    assert len(tiles) == 4
    split, whole = seen_through(halves, tiles), seen_through(fused, tiles)
    for odd in range(4):
        parts = [whole[i] if i == odd else split[i] for i in range(4)]
        check(merge_tiles(parts, tiles), halves)
    lone = [split[0], *[Instances.empty((150, 150))] * 2, whole[3]]
    found = merge_tiles(lone, tiles)
    iou = found.masks.iou(found.masks)
    assert (np.triu(iou, 1) <= 0.3).all() and 1 <= len(found) <= 2


def drawn_anew(places: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The same blobs as another tile draws them: moved, larger or smaller, turned, some in two halves."""
    label = np.zeros(size, np.int32)
    for i, (x, y, long, short, angle) in enumerate(places):
        (dx, dy), scale = rng.normal(0, 2.5, 2), rng.uniform(0.75, 1.3)
        axes = (max(2, int(long * scale)), max(2, int(short * scale)))
        cv2.ellipse(label, (int(x + dx), int(y + dy)), axes, angle + rng.normal(0, 25), 0, 360, i + 1, -1)
        if rng.random() < 0.25:
            label[:, : int(x)][label[:, : int(x)] == i + 1] = len(places) + i + 1
    return label


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overlap", [0.2, 0.45])
def test_whatever_tiles_see_nothing_is_there_twice(seed: int, overlap: float) -> None:
    rng, size = np.random.default_rng(seed), (160, 200)
    places = rng.uniform((0, 0, 5, 5, 0), (200, 160, 14, 14, 180), (60, 5))
    tiles = tile_boxes(size, 80, overlap)
    drawings = [drawn_anew(places, size, rng) for _ in tiles]
    parts = [seen_through(label, [tile])[0] for label, tile in zip(drawings, tiles, strict=True)]
    found = merge_tiles([part[rng.random(len(part)) < 0.9] for part in parts], tiles)
    assert len(found) > 30 and (np.triu(found.masks.iou(found.masks), 1) <= 0.3).all()


def test_things_that_one_tile_sees_on_each_other_stay():
    low, high = np.zeros((100, 180), int), np.zeros((100, 180), int)
    low[20:60, 75:105] = 1
    high[35:75, 75:105] = 1
    tiles = tile_boxes((100, 180), 130, 0.45)
    parts = [
        Instances.cat(list(pair)) for pair in zip(seen_through(low, tiles), seen_through(high, tiles), strict=True)
    ]
    assert parts[0].masks.iou(parts[0].masks)[0, 1] > 0.3
    assert len(merge_tiles(parts, tiles)) == 2


def test_different_classes_are_never_joined():
    label = np.zeros((60, 160), int)
    label[20:40, 30:130] = 1
    tiles = tile_boxes((60, 160), 100, 0.3)
    parts = seen_through(label, tiles)
    parts[1] = replace(parts[1], labels=parts[1].labels + 1)
    assert len(merge_tiles(parts, tiles)) == 2


def test_a_badly_drawn_fragment_at_the_end_of_a_tile_is_absorbed():
    label = np.zeros((60, 160), int)
    label[20:40, 65:95] = 1
    tiles = [(0, 0, 80, 60), (60, 0, 160, 60)]
    parts = seen_through(label, tiles)
    sliver = np.zeros((60, 160), int)
    sliver[22:38, 72:80] = 1  # the left tile sees half of it, and draws it too small
    parts[0] = as_instances(sliver)
    found = merge_tiles(parts, tiles)
    check(found, label)


def test_hundreds_of_objects_on_a_grid_of_tiles():
    rng = np.random.default_rng(0)
    label = np.zeros((600, 700), np.int64)
    for i in range(400):
        y, x = divmod(i, 20)
        r = rng.integers(4, 14)
        label[y * 30 + 2 : y * 30 + 2 + r, x * 35 + 2 : x * 35 + 2 + 2 * r] = i + 1
    tiles = tile_boxes((600, 700), 150, 0.25)
    check(merge_tiles(seen_through(label, tiles), tiles), label)


def test_boxes_without_masks():
    boxes = torch.tensor([[10.0, 20, 95, 40]])
    other = torch.tensor([[60.0, 20, 130, 40]])
    parts = [
        Instances((60, 160), b, labels=torch.zeros(1, dtype=torch.int64), scores=torch.tensor([s]))
        for b, s in ((boxes, 0.6), (other, 0.8))
    ]
    found = merge_tiles(parts, [(0, 0, 96, 60), (60, 0, 160, 60)])
    assert found.boxes.tolist() == [[10, 20, 130, 40]] and found.scores.tolist() == [pytest.approx(0.8)]


def test_nothing_anywhere():
    tiles = tile_boxes((60, 160), 100, 0.3)
    assert len(merge_tiles([Instances.empty((60, 160))] * len(tiles), tiles)) == 0


@pytest.mark.parametrize("num", [1, 7, 300])
def test_groups_are_the_connected_components(num):
    rng = np.random.default_rng(num)
    links = rng.integers(0, num, (num // 2, 2))
    expected = list(range(num))
    for a, b in links.tolist():
        expected = [expected[a] if group == expected[b] else group for group in expected]
    found = _groups(links, num)
    assert np.array_equal(found[:, None] == found, np.equal.outer(expected, expected))
    assert np.array_equal(np.unique(found), np.arange(len(set(expected))))
    chain = rng.permutation(num)
    assert not _groups(np.stack([chain[:-1], chain[1:]], axis=1), num).any()
