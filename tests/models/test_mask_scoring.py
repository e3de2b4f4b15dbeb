from __future__ import annotations

from unittest import mock

import numpy as np
import torch

from eachmask.models.instance.mask_scoring import (
    MaskIoUHead,
    MaskIoUHeadConfig,
    mask_iou_targets,
    mask_scoring_rcnn_lite0_fpn,
    share_inside,
)
from eachmask.structures import RLE, DecodeOptions, ImageBatch

FEW = {"rpn": {"pre_nms_top_n": 100, "post_nms_top_n": 60}, "max_detections": 20}


def square(side: int, rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, rows, columns] = 1
    return mask


def test_iou_of_a_mask_that_fits_is_one():
    mask = square(28, slice(4, 20), slice(4, 20))
    assert torch.allclose(mask_iou_targets(mask > 0, mask, torch.ones(1)), torch.ones(1), atol=1e-5)


def test_half_of_the_object_outside_halves_the_iou():
    """The region shows half of the object and the mask fills that half: 1 / 2, not 1."""
    mask = square(28, slice(0, 28), slice(14, 28))
    found = mask_iou_targets(mask > 0, mask, torch.tensor([0.5]))
    assert torch.allclose(found, torch.tensor([0.5]), atol=1e-5)


def test_worked_example():
    """8 x 8 painted, 8 x 10 true, 6 x 8 common, 80 % of the object inside: 48 / (64 + 100 - 48)."""
    painted, expected = square(28, slice(0, 8), slice(0, 8)), square(28, slice(2, 10), slice(0, 10))
    found = mask_iou_targets(painted > 0, expected, torch.tensor([0.8]))
    assert torch.allclose(found, torch.tensor([48 / 116]), atol=1e-5)


def test_nothing_painted_and_nothing_true():
    nothing = torch.zeros(2, 28, 28)
    assert mask_iou_targets(nothing > 0, nothing, torch.tensor([0.0, 1.0])).tolist() == [0, 0]


def test_share_of_the_object_in_the_region():
    bitmaps = np.zeros((2, 40, 50), bool)
    bitmaps[0, 10:20, 10:30] = True  # 200 px
    masks = RLE.from_bitmaps(bitmaps)
    boxes = torch.tensor(
        [[0.0, 0, 50, 40], [10.0, 10, 20.9, 20], [19.9, 0, 60, 40], [40.0, 30, 41, 31], [10.2, 10.7, 10.9, 11]]
    )
    found = share_inside(masks, torch.zeros(5, dtype=torch.int64), boxes)
    assert torch.allclose(found, torch.tensor([1, 0.5, 0.55, 0, 1 / 200]), atol=1e-5)
    assert share_inside(masks, torch.ones(5, dtype=torch.int64), boxes).tolist() == [0] * 5  # no pixel at all


def test_the_head_sees_features_and_mask():
    torch.manual_seed(0)
    head = MaskIoUHead(8, 5, 14, MaskIoUHeadConfig(width=16, layer_width=32))
    rois, logits = torch.randn(3, 8, 14, 14), torch.randn(3, 28, 28)
    found = head(rois, logits)
    assert found.shape == (3, 5)
    assert not torch.allclose(found, head(rois + 1, logits)) and not torch.allclose(found, head(rois, -logits))


@torch.inference_mode()
def test_score_is_class_score_times_iou():
    torch.manual_seed(0)
    model = mask_scoring_rcnn_lite0_fpn(num_classes=3, **FEW).eval()
    torch.nn.init.normal_(model.mask_iou_head.ious.weight, std=0.05)
    torch.nn.init.constant_(model.mask_iou_head.ious.bias, 0.5)
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    plain = super(type(model), model).select_heads
    options = DecodeOptions(score_threshold=0.01)
    with mock.patch.object(model, "select_heads", plain):
        (unscored,) = model.decode(raw, options)
    _, ious = model.scored_masks(raw.features, [unscored.boxes], unscored.labels)
    expected = (unscored.scores * ious).clamp(0, 1)
    expected = expected[expected > 0.01].sort(descending=True).values
    (found,) = model.decode(raw, options)
    assert torch.allclose(found.scores, expected, atol=1e-6)
    assert ious.std() > 0
    (boxes_only,) = model.decode(raw, DecodeOptions(score_threshold=0.01, with_masks=False))
    assert boxes_only.masks is None and torch.equal(boxes_only.scores, found.scores)
