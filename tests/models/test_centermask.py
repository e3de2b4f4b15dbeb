"""CenterMask's pieces against the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.models.detection.fcos import Raw
from eachmask.models.instance.centermask import (
    CenterMask,
    SpatialAttention,
    centermask_lite0_fpn,
    gt_masks,
    share_levels,
    true_shares,
)
from eachmask.models.protocol import Detections
from eachmask.structures import DecodeOptions, ImageBatch, Polygons


def paint(model: CenterMask, raw: Raw, options: DecodeOptions) -> tuple[Detections, tuple[torch.Tensor, ...]]:
    return model.paint(raw, model.keep(raw, options), options)


def test_levels_are_chosen_by_the_share_of_the_image():
    sides = torch.tensor([100.0, 71.0, 70.0, 51.0, 49.0, 10.0, 1.0, 0.0])
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], dim=1)
    share = 100 * 100 / (sides.double() ** 2).clamp(min=1e-6)
    by_paper = (5 - torch.log2(share)).ceil().clamp(3, 5).to(torch.int64) - 3  # P3 ... P5
    assert torch.equal(share_levels(boxes, (100, 100), 3), by_paper)
    assert by_paper.tolist() == [2, 2, 1, 1, 0, 0, 0, 0]
    # The same box is a smaller share of a larger image.
    assert share_levels(boxes[:1], (200, 200), 3).tolist() == [0]


def test_spatial_attention():
    torch.manual_seed(0)
    attention, x = SpatialAttention(), torch.randn(2, 5, 6, 7)
    seen = torch.stack([x.mean(1), x.max(1).values], dim=1)
    weight = torch.sigmoid(torch.nn.functional.conv2d(seen, attention.conv.weight, padding=1))
    assert torch.allclose(attention(x), x * weight)


def test_polygons_are_filled_at_the_size_of_the_head():
    ring = np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 34.0], [10.0, 34.0]])
    masks = Polygons([[ring]], (), (60, 80))
    boxes = torch.tensor([[10.0, 10.0, 50.0, 34.0], [30.0, 10.0, 70.0, 34.0]])
    filled = gt_masks(masks, torch.tensor([0, 0]), boxes, 28)
    assert filled[0].all() and filled[1, :, :14].all() and not filled[1, :, 14:].any()
    cut = gt_masks(masks.to_rle(), torch.tensor([0, 0]), boxes, 28)
    assert (filled != cut).float().mean() < 0.05
    for any_masks in (masks, masks.to_rle()):
        assert torch.allclose(true_shares(any_masks, torch.tensor([0, 0]), boxes), torch.tensor([1.0, 0.5]), atol=0.02)


def test_fewer_detections_are_the_best_of_all():
    torch.manual_seed(0)
    model = centermask_lite0_fpn(num_classes=3).eval()
    torch.nn.init.normal_(model.mask_iou_head.ious.weight, std=0.1)
    torch.nn.init.constant_(model.mask_iou_head.ious.bias, 0.5)
    with torch.no_grad():
        raw = model(ImageBatch.from_tensors([torch.randn(3, 64, 96)]))
        (many,) = model.decode(raw, DecodeOptions(score_threshold=0.001))
        (few,) = model.decode(raw, DecodeOptions(score_threshold=0.001, max_detections=3))
        found, (scored,) = paint(model, raw, DecodeOptions(score_threshold=0.001))
    assert len(few) == 3 and torch.equal(few.scores, many.scores[:3]) and torch.equal(few.boxes, many.boxes[:3])
    assert float(many.scores.max()) == pytest.approx(float(scored.clamp(0, 1).max()))
    assert (found.scores[0].diff() <= 0).all()


def test_a_threshold_is_of_the_score_that_is_reported():
    """A mask whose predicted IoU is above 1 raises its object's score, and so its place in the list."""
    torch.manual_seed(0)
    model = centermask_lite0_fpn(num_classes=3).eval()
    torch.nn.init.constant_(model.head.classes.bias, -1.0)
    torch.nn.init.constant_(model.mask_iou_head.ious.bias, 1.5)
    with torch.no_grad():
        raw = model(ImageBatch.from_tensors([torch.randn(3, 64, 96)]))
        (every,) = model.decode(raw, DecodeOptions(score_threshold=model.config.score_threshold))
        found, (raised,) = paint(model, raw, DecodeOptions())
        threshold = float(every.scores.median())
        (sure,) = model.decode(raw, DecodeOptions(score_threshold=threshold))
    assert (raised > found.scores[0]).any() and 0.4 < threshold < 1
    assert torch.equal(sure.scores, every.scores[every.scores >= threshold])
