from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torchvision

from eachmask.ops.nms import (
    fast_nms,
    fast_nms_of_classes,
    lower_repeats,
    mask_iou,
    mask_nms,
    matrix_nms,
    nms,
    soft_nms,
)
from eachmask.structures import boxes as box_ops


def crowd(num: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 10 + torch.rand(num, 2, generator=generator) * 60], dim=1)
    return boxes, torch.rand(num, generator=generator), torch.randint(0, 3, (num,), generator=generator)


def per_label(boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return box_ops.iou(boxes, boxes) * (labels[:, None] == labels[None])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_greedy_equals_torchvision_per_class(threshold):
    boxes, scores, labels = crowd()
    expected = torchvision.ops.batched_nms(boxes, scores, labels, threshold)
    assert torch.equal(nms(boxes, scores, labels, threshold), expected)
    assert torch.equal(mask_nms(per_label(boxes, labels), scores, threshold), expected)


def test_a_chain_shows_the_difference_of_greedy_and_fast():
    # a covers b, b covers c, a and c are apart: greedy keeps c, since b is gone; Fast NMS asks b all the same.
    iou = torch.tensor([[1.0, 0.6, 0.1], [0.6, 1, 0.6], [0.1, 0.6, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert mask_nms(iou, scores, 0.5).tolist() == [0, 2]
    assert fast_nms(iou, scores, 0.5).tolist() == [0]


def test_fast_never_keeps_more_than_greedy():
    boxes, scores, labels = crowd(300, 1)
    iou = per_label(boxes, labels)
    fast, greedy = set(fast_nms(iou, scores, 0.5).tolist()), set(mask_nms(iou, scores, 0.5).tolist())
    assert fast <= greedy and len(fast) > 20


def test_soft_nms_worked_example():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])  # IoU 0.5 and 0
    scores, labels = torch.tensor([0.9, 0.8, 0.5]), torch.zeros(3, dtype=torch.int64)
    keep, new = soft_nms(per_label(boxes, labels), scores, sigma=0.5)
    assert keep.tolist() == [0, 2, 1]
    assert new.tolist() == pytest.approx([0.9, 0.5, 0.8 * math.exp(-0.25 / 0.5)])
    keep, new = soft_nms(per_label(boxes, labels), scores, threshold=0.3, decay="linear")
    assert new.tolist() == pytest.approx([0.9, 0.5, 0.4]) and keep.tolist() == [0, 2, 1]
    keep, _ = soft_nms(per_label(boxes, torch.tensor([0, 1, 0])), scores)
    assert keep.tolist() == [0, 1, 2]


def test_matrix_nms_is_equation_5():
    torch.manual_seed(0)
    num, sigma = 12, 2.0
    iou = torch.rand(num, num)
    iou = (iou + iou.T) / 2
    scores, labels = torch.rand(num), torch.randint(0, 2, (num,))
    for decay, f in (("gaussian", lambda x: math.exp(-sigma * x * x)), ("linear", lambda x: 1 - x)):
        found = matrix_nms(iou, scores, labels, sigma, decay)
        for j in range(num):
            better = [i for i in range(num) if scores[i] > scores[j] and labels[i] == labels[j]]

            def covered(i: int) -> float:
                above = [float(iou[k, i]) for k in range(num) if scores[k] > scores[i] and labels[k] == labels[i]]
                return max(above, default=0.0)

            factor = min([f(float(iou[i, j])) / f(covered(i)) for i in better], default=1.0)
            assert float(found[j]) == pytest.approx(float(scores[j]) * min(factor, 1.0), rel=1e-4)


def test_repeats_and_parts_of_better_masks_lose_score():
    rng = np.random.default_rng(0)
    masks = np.zeros((24, 40, 40), bool)
    for mask, (y, x, h, w) in zip(masks, rng.integers(0, (30, 30, 25, 25), (24, 4)), strict=True):
        mask[y : y + h + 1, x : x + w + 1] = True
    scores, labels = torch.from_numpy(rng.random(24)).float(), torch.from_numpy(rng.integers(0, 2, 24))
    expected, cases = scores.tolist(), {"repeat": 0, "part": 0, "whole": 0}
    for j, i in itertools.permutations(range(24), 2):
        if scores[i] > scores[j] and labels[i] == labels[j]:
            common, union = (masks[i] & masks[j]).sum(), (masks[i] | masks[j]).sum()
            if common > 0.5 * union:
                expected[j], cases["repeat"] = expected[j] * 0.5, cases["repeat"] + 1
            elif common > 0.9 * masks[j].sum():
                expected[j], cases["part"] = expected[j] * 0.75, cases["part"] + 1
            else:
                cases["whole"] += int(common > 0.9 * masks[i].sum())
    assert all(cases.values()), cases
    given = torch.from_numpy(masks)
    found = lower_repeats(mask_iou(given, labels), given.flatten(1).sum(1), scores, 0.5, 0.75)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_nothing_in_nothing_out():
    none, empty = torch.zeros(0), torch.zeros(0, 0)
    assert len(fast_nms(empty, none, 0.5)) == len(mask_nms(empty, none, 0.5)) == len(matrix_nms(empty, none, none)) == 0
    assert len(soft_nms(empty, none)[0]) == len(nms(torch.zeros(0, 4), none, none, 0.5)) == 0


def boxes_of_classes(num: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(num, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(num, 2, generator=generator) * 40], dim=1)
    return boxes, torch.rand(num, num_classes, generator=generator)


@pytest.mark.parametrize("pairs_at_once", [1, 2 * 50**2, 1 << 20])
@pytest.mark.parametrize("score_threshold", [None, 0.6, 2.0])
def test_all_classes_at_once_equal_one_after_the_other(score_threshold, pairs_at_once, monkeypatch):
    monkeypatch.setattr("eachmask.ops.nms.PAIR_CHUNK_SIZE", pairs_at_once)
    boxes, scores = boxes_of_classes(80, 3)
    found = set()
    for row, label in zip(*fast_nms_of_classes(boxes, scores, 0.4, 50, score_threshold), strict=True):
        found.add((int(row), int(label)))
    expected = set()
    for label in range(3):
        best = scores[:, label].topk(50).indices
        kept = best[fast_nms(box_ops.iou(boxes[best], boxes[best]), scores[best, label], 0.4)]
        expected |= {(int(i), label) for i in kept if score_threshold is None or scores[i, label] > score_threshold}
    assert found == expected


@pytest.mark.parametrize("shape", [(0, 3), (1, 1)])
def test_few_boxes_are_suppressed_too(shape):
    boxes, scores = boxes_of_classes(*shape)
    assert (
        len(fast_nms_of_classes(boxes, scores, 0.5, 200)[0])
        == len(fast_nms_of_classes(boxes, scores, 0.5, 200, 0.0)[0])
        == shape[0]
    )


def test_boxes_without_area_suppress_nothing():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5]])
    assert len(fast_nms_of_classes(boxes, torch.tensor([[0.9], [0.8]]), 0.5, 200)[0]) == 2
