from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from processes import WITH_BENCHMARKS

from eachmask.ops import mask_candidates
from eachmask.ops.mask_candidates import (
    Candidates,
    Limits,
    MapGeometry,
    choose,
    find_candidates,
    pack_maps,
    score_masks,
    suppress,
)
from eachmask.ops.nms import mask_iou
from eachmask.structures import RLE

GEOMETRY = MapGeometry((32, 40), (128, 160), (125, 150))
LIMITS = Limits(candidate=0.1, candidates=500, sigma=2.0, greedy=None, score=0.05, most=100)


def blobs(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    center = torch.rand(num, 2, generator=generator) * torch.tensor([32.0, 40.0])
    radius = 1 + 8 * torch.rand(num, generator=generator)
    distance = ((ys - center[:, 0, None, None]) ** 2 + (xs - center[:, 1, None, None]) ** 2).sqrt()
    return torch.sigmoid(radius[:, None, None] - distance)


def candidates(num: int, num_classes: int = 3, seed: int = 0) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num,), generator=generator)
    scores = 0.1 + 0.9 * torch.rand(num, generator=generator)
    cells = torch.arange(num)
    return Candidates(torch.zeros_like(cells), cells, labels, scores, torch.full_like(cells, 8))


def test_local_maxima_look_left_and_up():
    level = torch.full((1, 4, 4), -9.0)
    level[0, 1, 1], level[0, 1, 2], level[0, 3, 3] = 2.0, 1.0, 0.0
    level[0, 0, 0] = 3.0  # upper left of (1, 1), which therefore goes; nothing looks right or down
    found = find_candidates([level, torch.full((1, 2, 2), 5.0)], 0.1, (8, 16))
    assert found.cells.tolist() == [0, 15, 0, 1, 2, 3] and found.levels.tolist() == [0, 0, 1, 1, 1, 1]
    assert found.min_areas.tolist() == [8, 8, 16, 16, 16, 16]
    assert found.scores[0] == pytest.approx(torch.tensor(3.0).sigmoid())


@pytest.mark.parametrize("most", [20, 50, 500])
@pytest.mark.parametrize("numbers", [1, 40 * 32 * 7, 1 << 23])
def test_the_best_of_all_groups_are_kept(numbers, most, monkeypatch):
    monkeypatch.setattr(mask_candidates, "MAP_CHUNK_SIZE", numbers)
    found, maps = candidates(60), blobs(60)
    index, scores, masks = score_masks(found, lambda i: maps[i], GEOMETRY, most, 0.5)
    inside = maps >= 0.5
    area = inside.sum((1, 2))
    expected = found.scores * (maps * inside).sum((1, 2)) / area.clamp(min=1)
    expected[area <= 8] = -1
    num = min(most, int((expected > 0).sum()))
    assert 50 < int((expected > 0).sum()) < 60
    assert sorted(index.tolist()) == sorted(expected.topk(num).indices.tolist())
    assert torch.allclose(scores, expected[index]) and torch.equal(masks, inside[index])


def test_iou_is_of_the_same_label_only():
    masks, labels = blobs(20) >= 0.5, torch.arange(20) % 3
    expected = torch.from_numpy(RLE.from_bitmaps(masks.numpy()).iou(RLE.from_bitmaps(masks.numpy()))).float()
    expected[labels[:, None] != labels[None]] = 0
    assert torch.allclose(mask_iou(masks, labels, pixels_at_once=500), expected, atol=1e-6)
    assert mask_iou(masks[:0], labels[:0]).shape == (0, 0)


def test_matrix_nms_lowers_what_greedy_suppression_removes():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:2, :4], masks[2, 4:] = True, True
    scores, labels = torch.tensor([0.8, 0.9, 0.7]), torch.zeros(3, dtype=torch.int64)
    order, new = suppress(masks, scores, labels, LIMITS)
    assert order.tolist() == [1, 2, 0] and new.tolist() == pytest.approx([0.9, 0.7, 0.8 * np.exp(-2.0)])
    order, new = suppress(masks, scores, labels, LIMITS._replace(greedy=0.5))
    assert order.tolist() == [1, 2] and new.tolist() == pytest.approx([0.9, 0.7])


def test_instances_are_sorted_limited_and_on_the_valid_part():
    found, maps = candidates(60), blobs(60)
    chosen = choose(found, lambda i: maps[i], GEOMETRY, LIMITS._replace(most=7), 0.5)
    masks, boxes = pack_maps(len(chosen.rows), lambda rows: maps[chosen.rows[rows]], GEOMETRY, 0.5)
    assert len(masks) == 7 and masks.size == (125, 150) and (chosen.scores.diff() <= 0).all()
    assert (boxes[:, 2] <= 150).all() and (boxes[:, 3] <= 125).all()
    nothing = choose(candidates(0), lambda i: maps[i], GEOMETRY, LIMITS, 0.5)
    masks, boxes = pack_maps(0, lambda rows: maps[nothing.rows[rows]], GEOMETRY, 0.5)
    assert len(nothing.rows) == len(masks) == len(boxes) == 0 and masks.size == (125, 150)


def test_memory_of_500_objects_in_a_large_image():
    """In a process of its own: 700 candidates, 500 instances, their pixels on 4000 x 4000."""
    code = """
        import torch
        from eachmask.ops.mask_candidates import Candidates, Limits, MapGeometry, choose, pack_maps

        ys, xs = torch.meshgrid(torch.arange(320.0), torch.arange(320.0), indexing="ij")
        center = torch.rand(700, 2, generator=torch.Generator().manual_seed(0)) * 320

        def maps_of(index):
            distance = (ys - center[index, 0, None, None]) ** 2 + (xs - center[index, 1, None, None]) ** 2
            return torch.sigmoid(8 - distance.sqrt())

        cells = torch.arange(700)
        scores = torch.rand(700, generator=torch.Generator().manual_seed(1))
        found = Candidates(cells * 0, cells, cells % 80, scores, cells * 0 + 8)
        limits = Limits(0.1, 1000, 2.0, None, 0.05, 500)
        geometry = MapGeometry((320, 320), (1280, 1280), (1280, 1280))
        rows = choose(found, maps_of, geometry, limits, 0.5).rows
        masks, _ = pack_maps(len(rows), lambda some: maps_of(rows[some]), geometry, 0.5)
        masks = masks.resize((4000, 4000))
        assert len(masks) == 500 and (masks.area() > 0).all()
        from peak_memory import peak_mb
        print(peak_mb() / 1000)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=WITH_BENCHMARKS)
    assert float(done.stdout) < 1.5, f"{done.stdout} GB"


def test_the_last_bits_of_a_flat_map_choose_nobody() -> None:
    """As another runtime's sums change them."""
    flat = torch.full((2, 6, 6), -4.0)
    flat[1, 3, 3] = 1.0
    noise = 2e-6 * torch.rand(flat.shape, generator=torch.Generator().manual_seed(0))
    exact, shaken = (find_candidates([logits], 0.001, [0]) for logits in (flat, flat + noise))
    assert torch.equal(exact.cells, shaken.cells) and torch.equal(exact.labels, shaken.labels)
