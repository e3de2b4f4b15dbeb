"""The four suppressions that a user may ask for, against the operations that they are made of."""

from __future__ import annotations

import math

import pytest
import torch

from eachmask.ops.nms import fast_nms, fast_nms_of_classes, mask_nms, matrix_nms, nms, soft_nms
from eachmask.ops.suppression import suppress_boxes, suppress_by, suppress_classes
from eachmask.structures import boxes as box_ops
from eachmask.structures.decode import Limits


def crowd(num: int = 150) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(num, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 10 + torch.rand(num, 2, generator=generator) * 60], dim=1)
    return boxes, torch.rand(num, generator=generator), torch.randint(0, 3, (num,), generator=generator)


def same_label(boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return box_ops.iou(boxes, boxes) * (labels[:, None] == labels[None])


def test_hard_and_fast_keep_scores() -> None:
    boxes, scores, labels = crowd()
    index, kept = suppress_boxes(boxes, scores, labels, Limits(0.05, 0.4, 1000))
    assert torch.equal(index, nms(boxes, scores, labels, 0.4)) and torch.equal(kept, scores[index])
    index, kept = suppress_boxes(boxes, scores, labels, Limits(0.05, 0.4, 1000, "fast"))
    assert torch.equal(index, fast_nms(same_label(boxes, labels), scores, 0.4)) and torch.equal(kept, scores[index])


def test_soft_and_matrix_lower_scores_down_to_the_threshold() -> None:
    boxes, scores, labels = crowd()
    index, kept = suppress_boxes(boxes, scores, labels, Limits(0.1, 0.4, 1000, "soft"))
    rows, faded = soft_nms(same_label(boxes, labels), scores, min_score=0.1)
    order = torch.argsort(faded, descending=True, stable=True)
    assert torch.equal(index, rows[order]) and torch.equal(kept, faded[order])
    index, kept = suppress_boxes(boxes, scores, labels, Limits(0.1, 0.4, 1000, "matrix"))
    faded = matrix_nms(same_label(boxes, labels), scores, labels)
    assert torch.allclose(kept, faded[index]) and len(index) == int((faded >= 0.1).sum())


@pytest.mark.parametrize("how", ["hard", "soft", "fast", "matrix"])
def test_limits_are_kept(how) -> None:
    boxes, scores, labels = crowd()
    index, kept = suppress_boxes(boxes, scores, labels, Limits(0.0, 0.4, 1000, how))
    assert len(index.unique()) == len(index) and (kept.diff() <= 0).all()
    few, best = suppress_boxes(boxes, scores, labels, Limits(0.0, 0.4, 7, how))
    assert torch.equal(few, index[:7]) and torch.equal(best, kept[:7])
    assert len(suppress_boxes(boxes[:0], scores[:0], labels[:0], Limits(0.0, 0.4, 7, how))[0]) == 0


@pytest.mark.parametrize("how", ["hard", "soft", "fast", "matrix"])
def test_masks_are_suppressed_like_boxes(how) -> None:
    boxes, scores, labels = crowd()
    limits = Limits(0.05, 0.4, 1000, how)
    by_boxes, by_iou = (
        suppress_boxes(boxes, scores, labels, limits),
        suppress_by(same_label(boxes, labels), scores, limits),
    )
    assert torch.equal(by_boxes[0], by_iou[0]) and torch.allclose(by_boxes[1], by_iou[1])
    assert torch.equal(mask_nms(same_label(boxes, labels), scores, 0.4), nms(boxes, scores, labels, 0.4))


def test_a_pair_fades_by_its_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 0.5
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    _, soft = suppress_boxes(boxes, scores, labels, Limits(0.0, 0.4, 10, "soft"))
    assert soft.tolist() == pytest.approx([0.9, 0.8 * math.exp(-0.25 / 0.5)])
    _, matrix = suppress_boxes(boxes, scores, labels, Limits(0.0, 0.4, 10, "matrix"))
    assert matrix.tolist() == pytest.approx([0.9, 0.8 * math.exp(-2 * 0.25)])
    assert len(suppress_boxes(boxes, scores, labels, Limits(0.0, 0.4, 10, "hard"))[0]) == 1


def test_boxes_that_classes_share() -> None:
    boxes, _, _ = crowd(80)
    scores = torch.rand(80, 4, generator=torch.Generator().manual_seed(1))
    rows, labels, kept = suppress_classes(boxes, scores, Limits(0.2, 0.4, 1000, "fast"), 30, 0.2)
    own_rows, own_labels = fast_nms_of_classes(boxes, scores, 0.4, 30, 0.2)
    assert set(zip(rows.tolist(), labels.tolist(), strict=True)) == set(
        zip(own_rows.tolist(), own_labels.tolist(), strict=True)
    )
    assert torch.equal(kept, scores[rows, labels])
