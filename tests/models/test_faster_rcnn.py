"""Assignment, sampling and selection of the two-stage family, on worked examples."""

from __future__ import annotations

import pytest
import torch

from eachmask.backbones.features import Features
from eachmask.models.detection.faster_rcnn import (
    FasterRCNN,
    box_losses,
    faster_rcnn_lite0_fpn,
    flatten_anchors,
    in_groups,
    learnable,
    select,
)
from eachmask.ops.match import IGNORED, UNMATCHED
from eachmask.structures import DecodeOptions, ImageBatch, Instances

NOTHING = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model() -> FasterRCNN:
    torch.manual_seed(0)
    return faster_rcnn_lite0_fpn(num_classes=3).eval()


def target(*boxes: tuple[float, ...], crowd: list[bool] | None = None) -> Instances:
    return Instances(
        image_size=(100, 100),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % 3,
        crowd=None if crowd is None else torch.tensor(crowd),
    )


def test_what_lies_in_a_crowd_is_neither_object_nor_background(model):
    truth = target((0, 0, 60, 60), (70, 70, 90, 90), crowd=[True, False])
    boxes = torch.tensor([[5.0, 5, 25, 25], [50, 50, 80, 80], [71, 70, 90, 90], [0, 80, 10, 90], [0, 0, 60, 60]])
    matched = model._match(boxes, truth, 0.5, 0.5, low_quality=False)
    assert matched.tolist() == [IGNORED, UNMATCHED, 1, UNMATCHED, IGNORED]


def test_an_object_inside_a_crowd_is_still_an_object(model):
    truth = target((0, 0, 60, 60), (10, 10, 30, 30), crowd=[True, False])
    assert model._match(torch.tensor([[10.0, 10, 30, 31]]), truth, 0.5, 0.5, low_quality=False).tolist() == [1]


def test_boxes_without_area_are_not_learnt_wherever_they_stand():
    truth = target(NOTHING, (10, 10, 30, 30), (5, 5, 5, 20), (0, 0, 9, 9), crowd=[False, False, False, True])
    objects, crowd = learnable(truth, torch.device("cpu"))
    assert objects.tolist() == [1] and crowd.tolist() == [3]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_box_without_area_leaves_the_losses_finite_and_unchanged(model, order):
    batch = ImageBatch.from_tensors([torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))])
    both = target((10, 10, 50, 60), NOTHING)[order]
    alone = both[both.boxes[:, 2] > 0]
    raw = model(batch)
    torch.manual_seed(3)
    expected = model.losses(raw, [alone])
    torch.manual_seed(3)
    losses = model.losses(raw, [both])
    assert {k: float(v) for k, v in losses.items()} == {k: float(v) for k, v in expected.items()}


def test_sampled_proposals_are_balanced_and_labelled(model):
    truth = target((10, 10, 40, 40), (60, 60, 90, 90))
    near = truth.boxes[[0, 1] * 200] + torch.rand(400, 4, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([[45.0, 0, 55, 9]]).repeat(1000, 1)
    sampled = model.sample_proposals(torch.cat([far, near]), truth)
    assert len(sampled.boxes) == 512 and int((sampled.labels < 3).sum()) == 128
    objects = sampled.labels < 3
    assert torch.equal(sampled.labels[objects], truth.labels[sampled.matched[objects]])
    assert torch.equal(sampled.matched_boxes[objects], truth.boxes[sampled.matched[objects]])


def test_the_true_boxes_are_among_the_proposals(model):
    truth = target((10, 10, 40, 40))
    sampled = model.sample_proposals(torch.zeros(0, 4), truth)
    assert sampled.boxes.tolist() == truth.boxes.tolist() and sampled.labels.tolist() == [0]


def test_box_loss_looks_at_the_true_class_alone():
    logits, shifts = torch.zeros(2, 3), torch.zeros(2, 2, 4)
    shifts[0, 1] = 1.0  # the wrong class's shifts cost nothing
    losses = box_losses(logits, shifts, torch.tensor([0, 2]), torch.zeros(2, 4))
    assert float(losses["box"]) == 0 and float(losses["class"]) == pytest.approx(torch.log(torch.tensor(3.0)))
    losses = box_losses(logits, shifts, torch.tensor([1, 2]), torch.zeros(2, 4))
    assert float(losses["box"]) == pytest.approx(4 * (1 - 0.5 / 9) / 2)  # smooth L1, over both RoIs


def test_selection_keeps_one_of_each_class_and_drops_specks():
    boxes = torch.tensor([[0.0, 0, 20, 20], [1, 0, 21, 20], [50, 50, 50.005, 60]])[:, None].expand(3, 2, 4)
    probabilities = torch.tensor([[0.9, 0.3], [0.8, 0.04], [0.95, 0.0]])
    found = select(boxes, probabilities, (100, 100), (0.05, 0.5, 10))
    assert found.scores.tolist() == pytest.approx([0.9, 0.3]) and found.labels.tolist() == [0, 1]
    assert len(select(boxes, probabilities, (100, 100), (0.05, 0.5, 1))) == 1


def test_flattened_maps_have_the_order_of_the_anchors():
    anchors, width, rows, columns = 3, 4, 2, 5
    level = torch.arange(anchors * width * rows * columns).reshape(1, anchors * width, rows, columns)
    flat = flatten_anchors(level, width)
    place = (1 * columns + 2) * anchors + 2  # row 1, column 2, anchor 2
    assert flat[0, place].tolist() == level[0, 2 * width : 3 * width, 1, 2].tolist()
    strided = level.contiguous(memory_format=torch.channels_last)
    assert torch.equal(flatten_anchors(strided, width), flat)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_groups_together_are_all_boxes_in_order(at_once):
    boxes = [torch.arange(8.0).reshape(2, 4), torch.zeros(0, 4), torch.arange(20.0).reshape(5, 4)]
    groups = list(in_groups(boxes, at_once))
    assert all(sum(len(b) for b in group) <= at_once for group in groups)
    joined = torch.cat([torch.cat(group) for group in groups])
    assert torch.equal(joined, torch.cat(boxes))
    assert [len(group) for group in in_groups([torch.zeros(0, 4)], 2)] == [1]


def test_regions_are_cut_at_their_exact_place_in_half_precision(model):
    torch.manual_seed(0)
    level = torch.rand(1, 4, 200, 272).bfloat16()
    boxes = [torch.tensor([[701.4, 402.7, 745.9, 480.2]])]
    expected = model.pool(Features((level.float(),) * 4, (4,) * 4, (4,) * 4), boxes, 7)
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = (level.contiguous(memory_format=layout),) * 4
        found = model.pool(Features(maps, (4,) * 4, (4,) * 4), boxes, 7)
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), expected, atol=0.01)


@torch.inference_mode()
def test_boxes_and_scores_are_float32_under_autocast(model):
    batch = ImageBatch.from_tensors([torch.rand(3, 64, 96)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = model.decode(model(batch), DecodeOptions(score_threshold=0.01))
    assert found.boxes.dtype == found.scores.dtype == torch.float32 and len(found)
