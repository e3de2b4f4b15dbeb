from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from eachmask.ops.anchors import base_anchors, flatten_anchors, grid_anchors
from eachmask.ops.match import IGNORED, UNMATCHED, learnable, match, match_objects, sample
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops


@pytest.mark.parametrize("grid", [(5, 7), (1, 1), (13, 3)])
def test_anchors_equal_torchvision(grid):
    ratios = (0.5, 1.0, 2.0)
    theirs = AnchorGenerator(((32,), (64, 100)), (ratios, ratios))
    image = torch.zeros(1, 3, grid[0] * 8, grid[1] * 8)
    maps = [torch.zeros(1, 1, *grid), torch.zeros(1, 1, max(grid[0] // 2, 1), max(grid[1] // 2, 1))]
    (expected,) = theirs(ImageList(image, [image.shape[-2:]]), maps)
    ours = [
        grid_anchors(
            base_anchors(sizes, ratios), tuple(m.shape[-2:]),
            (image.shape[-2] // m.shape[-2], image.shape[-1] // m.shape[-1]),
        )
        for sizes, m in zip([(32,), (64, 100)], maps, strict=True)
    ]  # fmt: skip
    assert torch.equal(torch.cat(ours), expected)


@pytest.mark.parametrize("low_quality", [False, True])
def test_matching_equals_torchvision(low_quality):
    torch.manual_seed(0)
    gt = torch.rand(6, 4) * 40
    gt[:, 2:] += gt[:, :2] + 5
    boxes = torch.rand(80, 4) * 40
    boxes[:, 2:] += boxes[:, :2] + 5
    iou = box_ops.iou(gt, boxes)
    assert torch.equal(match(iou, 0.6, 0.3, low_quality), Matcher(0.6, 0.3, low_quality)(iou))


def test_low_quality_matches_include_ties():
    iou = torch.tensor([[0.2, 0.2, 0.1, 0.0]])
    assert match(iou, 0.7, 0.3, True).tolist() == [0, 0, UNMATCHED, UNMATCHED]
    assert match(iou, 0.7, 0.15).tolist() == [IGNORED, IGNORED, UNMATCHED, UNMATCHED]


def test_without_objects_everything_is_background():
    assert match(torch.zeros(0, 3), 0.7, 0.3, True).tolist() == [UNMATCHED] * 3


def test_samples_are_balanced_and_repeatable():
    matched = torch.tensor([0] * 30 + [UNMATCHED] * 100 + [IGNORED] * 50)
    positive, negative = sample(matched, 64, 0.25, torch.Generator().manual_seed(0))
    assert positive.sum() == 16 and negative.sum() == 48
    assert not (positive & (matched < 0)).any() and not (negative & (matched != UNMATCHED)).any()
    again, _ = sample(matched, 64, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(positive, again)
    few, many = sample(matched[:35], 64, 0.5, None)
    assert few.sum() == 30 and many.sum() == 5


def test_the_best_of_an_object_may_be_moved_to_it():
    iou = torch.tensor([[0.6, 0.1, 0.0], [0.5, 0.2, 0.25]])  # object 1's best is object 0's too
    assert match(iou, 0.7, 0.3, True).tolist() == [0, UNMATCHED, UNMATCHED]
    assert match(iou, 0.7, 0.3, True, moves=True).tolist() == [1, UNMATCHED, UNMATCHED]
    assert match(iou, 0.7, 0.3, True, lowest=0.55).tolist() == [0, UNMATCHED, UNMATCHED]
    assert match(iou, 0.7, 0.3, True, lowest=0.65).tolist() == [IGNORED, UNMATCHED, UNMATCHED]


def test_anchors_need_not_be_whole_pixels():
    exact = base_anchors((32,), (0.5, 1.0), rounded=False)
    assert torch.allclose((exact[:, 2:] - exact[:, :2]).prod(1), torch.tensor([1024.0, 1024.0]))
    assert torch.equal(exact.round(), base_anchors((32,), (0.5, 1.0)))


def target(*boxes: tuple[float, ...], crowd: list[bool] | None = None) -> Instances:
    return Instances(
        image_size=(100, 100),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % 3,
        crowd=None if crowd is None else torch.tensor(crowd),
    )


def test_what_lies_in_a_crowd_is_neither_object_nor_background():
    gt = target((0, 0, 60, 60), (70, 70, 90, 90), crowd=[True, False])
    boxes = torch.tensor([[5.0, 5, 25, 25], [50, 50, 80, 80], [71, 70, 90, 90], [0, 80, 10, 90], [0, 0, 60, 60]])
    matched = match_objects(boxes, gt, 0.5, 0.5)
    assert matched.tolist() == [IGNORED, UNMATCHED, 1, UNMATCHED, IGNORED]


def test_an_object_inside_a_crowd_is_still_an_object():
    gt = target((0, 0, 60, 60), (10, 10, 30, 30), crowd=[True, False])
    assert match_objects(torch.tensor([[10.0, 10, 30, 31]]), gt, 0.5, 0.5).tolist() == [1]


def test_boxes_without_area_are_not_learnt_wherever_they_stand():
    gt = target((0, 0, 0, 0), (10, 10, 30, 30), (5, 5, 5, 20), (0, 0, 9, 9), crowd=[False, False, False, True])
    objects, crowd = learnable(gt, torch.device("cpu"))
    assert objects.tolist() == [1] and crowd.tolist() == [3]


def test_flattened_maps_have_the_order_of_the_anchors():
    anchors, width, rows, columns = 3, 4, 2, 5
    level = torch.arange(anchors * width * rows * columns).reshape(1, anchors * width, rows, columns)
    flat = flatten_anchors(level, width)
    place = (1 * columns + 2) * anchors + 2  # row 1, column 2, anchor 2
    assert flat[0, place].tolist() == level[0, 2 * width : 3 * width, 1, 2].tolist()
    strided = level.contiguous(memory_format=torch.channels_last)
    assert torch.equal(flatten_anchors(strided, width), flat)
