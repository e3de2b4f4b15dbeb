from __future__ import annotations

import pytest
import torch
import torchvision

from eachmask.structures import boxes as ops


def random_boxes(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 80
    return torch.cat([corner, corner + torch.rand(num, 2, generator=generator) * 40], dim=1)


def test_measures_equal_torchvision():
    a, b = random_boxes(20), random_boxes(15, 1)
    assert torch.allclose(ops.iou(a, b), torchvision.ops.box_iou(a, b))
    assert torch.allclose(ops.giou(a, b), torchvision.ops.generalized_box_iou(a, b), atol=1e-6)
    assert torch.allclose(ops.area(a), torchvision.ops.box_area(a))


def test_empty_boxes_give_zero_not_nan():
    empty = torch.zeros(1, 4)
    assert ops.iou(empty, empty).tolist() == [[0]] and ops.coverage(empty, empty).tolist() == [[0]]
    assert ops.iou(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)


def test_coverage_is_the_share_of_the_first():
    small, large = torch.tensor([[10.0, 10, 20, 20]]), torch.tensor([[0.0, 0, 100, 15]])
    assert ops.coverage(small, large).item() == 0.5 and ops.coverage(large, small).item() == pytest.approx(50 / 1500)


@pytest.mark.parametrize("source", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("target", ["xyxy", "xywh", "cxcywh"])
def test_convert(source, target):
    boxes = torchvision.ops.box_convert(random_boxes(5), "xyxy", source)
    expected = torchvision.ops.box_convert(boxes, source, target)
    assert torch.allclose(ops.convert(boxes, source, target), expected, atol=1e-4)


def test_encode_and_decode_undo_each_other_and_growth_is_limited():
    one_larger = torch.tensor([0, 0, 1, 1])
    boxes, anchors = random_boxes(30) + one_larger, random_boxes(30, 2) + one_larger
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = ops.encode(boxes, anchors, weights)
    assert torch.allclose(ops.decode(deltas, anchors, weights), boxes, atol=1e-3)
    huge = ops.decode(torch.tensor([[0.0, 0, 99, 0]]), torch.tensor([[0.0, 0, 16, 16]]), (1.0, 1.0, 1.0, 1.0))
    assert (huge[0, 2] - huge[0, 0]).item() == pytest.approx(1000, rel=1e-5)


def test_decoding_is_that_of_torchvision():
    from torchvision.models.detection._utils import BoxCoder

    weights = (10.0, 10.0, 5.0, 5.0)
    coder = BoxCoder(weights)
    boxes, anchors = random_boxes(30) + torch.tensor([0, 0, 1, 1]), random_boxes(30, 2) + torch.tensor([0, 0, 1, 1])
    deltas = torch.randn(30, 4, generator=torch.Generator().manual_seed(3)) * 20
    assert torch.allclose(ops.encode(boxes, anchors, weights), coder.encode_single(boxes, anchors), atol=1e-5)
    assert torch.allclose(ops.decode(deltas, anchors, weights), coder.decode_single(deltas, anchors), rtol=1e-5)


def test_resize_rounds_as_torchvision_does():
    from torchvision.models.detection.transform import resize_boxes

    boxes = random_boxes(50)
    for old, new in [((37, 53), (101, 64)), ((480, 640), (800, 1066)), ((3, 7), (1, 2))]:
        assert torch.equal(ops.resize(boxes, old, new), resize_boxes(boxes, list(old), list(new)))


def test_clip():
    assert ops.clip(torch.tensor([[-5.0, 3, 70, 50]]), (40, 60)).tolist() == [[0, 3, 60, 40]]
