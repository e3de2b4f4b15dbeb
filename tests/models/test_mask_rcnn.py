from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from eachmask.models.instance import keypoint_rcnn, mask_rcnn
from eachmask.models.instance.keypoint_rcnn import find_peaks, keypoint_targets, read_keypoints
from eachmask.models.instance.mask_rcnn import MaskHead, MaskHeadConfig, mask_rcnn_lite0_fpn
from eachmask.ops.mask_targets import mask_targets
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


@pytest.mark.parametrize("grad", [False, True])
def test_the_head_predicts_one_class_as_if_it_had_predicted_all(grad):
    torch.manual_seed(0)
    head = MaskHead(8, 5, MaskHeadConfig(width=16)).eval()
    rois, labels = torch.randn(37, 8, 14, 14), torch.arange(37) % 5
    with torch.set_grad_enabled(grad):
        found = head(rois, labels)
        every = head.masks(F.relu(head.upsample(head.convs(rois))))
    assert found.shape == (37, 28, 28)
    assert torch.allclose(found, every[torch.arange(37), labels], atol=1e-5)


def test_mask_targets_equal_roi_align_of_the_whole_bitmap():
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:60, :80]
    bitmaps = np.stack(
        [
            (ys - 30) ** 2 + (xs - 40) ** 2 < 300,  # a disc inside
            (xs < 25) & (ys > 35),  # in the corner
            (ys < 3) | (xs > 76),  # along two borders
            rng.random((60, 80)) > 0.5,  # everywhere
            np.zeros((60, 80), bool),  # no pixel left
        ]
    )
    corner = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([75.0, 55.0])
    size = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 40 + 0.5
    boxes = torch.cat([corner, corner + size], dim=1).clamp(max=80)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(max=60)
    boxes[0] = torch.tensor([0.0, 0, 80, 60])
    matched = torch.arange(60) % 5
    rois = torch.cat([matched[:, None].float(), boxes], dim=1)
    expected = torchvision.ops.roi_align(torch.from_numpy(bitmaps).float()[:, None], rois, (28, 28), 1.0)[:, 0]
    found = mask_targets(RLE.from_bitmaps(bitmaps), matched, boxes, 28)
    assert torch.allclose(found, expected, atol=1e-5)


@torch.inference_mode()
def test_groups_of_regions_change_nothing(monkeypatch):
    torch.manual_seed(0)
    model = mask_rcnn_lite0_fpn(num_classes=3, max_detections=20).eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96), torch.rand(3, 80, 50)]))
    options = DecodeOptions(score_threshold=0.01)
    together = model.decode(raw, options)
    monkeypatch.setattr(mask_rcnn, "ROI_CHUNK_SIZE", 7)
    for one, other in zip(model.decode(raw, options), together, strict=True):
        assert len(one) == 20
        assert torch.allclose(one.masks.probabilities, other.masks.probabilities, atol=1e-6)


@torch.inference_mode()
def test_without_masks_their_head_does_not_run(monkeypatch):
    model = mask_rcnn_lite0_fpn(num_classes=3).eval()
    monkeypatch.setattr(model, "mask_logits", None)
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    (found,) = model.decode(raw, DecodeOptions(score_threshold=0.01, with_masks=False))
    assert found.masks is None and len(found)


def test_keypoints_become_places_in_the_box():
    boxes = torch.tensor([[10.0, 20.0, 66.0, 76.0]])
    points = torch.tensor([[[10.0, 20, 2], [66, 76, 2], [38.5, 20.5, 1], [38, 20, 0], [9, 30, 2]]])
    place, valid = keypoint_targets(points, boxes, 56)
    assert valid.tolist() == [[True, True, True, False, False]]
    assert place[0, :3].tolist() == [0, 55 * 56 + 55, 28]


def test_a_peak_is_read_back_where_it_was_put():
    boxes = torch.tensor([[10.0, 20.0, 122.0, 76.0], [3.0, 4.0, 3.5, 4.5]])  # the second is smaller than a pixel
    logits = torch.zeros(2, 1, 56, 56)
    logits[:, 0, 14, 42] = 5.0
    found = read_keypoints(logits, boxes)
    assert found[0, 0, :2].tolist() == pytest.approx([10 + 42.5 * 2, 20 + 14.5], abs=1)
    height = find_peaks(logits, boxes)[0, 0, 2].item()
    assert 4 < height < 5.5
    assert found[0, 0, 2] == pytest.approx(np.exp(height) / (np.exp(5) + 56 * 56 - 1), rel=1e-4), "its softmax"
    assert read_keypoints(logits * 20, boxes)[0, 0, 2] <= 1
    assert ((found[1, 0, :2] - boxes[1, :2]).abs() <= 1).all()


@torch.inference_mode()
def test_every_place_starts_about_equally_likely():
    torch.manual_seed(0)
    head = keypoint_rcnn.KeypointHead(16, keypoint_rcnn.KeypointHeadConfig(width=64, convs=4))
    logits = head(torch.randn(5, 16, 14, 14)).flatten(2)
    place = torch.randint(56 * 56, logits.shape[:2])
    assert F.cross_entropy(logits.flatten(0, 1), place.flatten()).item() == pytest.approx(np.log(56 * 56), abs=0.1)


@torch.inference_mode()
def test_groups_of_people_change_nothing(monkeypatch):
    torch.manual_seed(0)
    model = keypoint_rcnn.keypoint_rcnn_r50_fpn(
        keypoint_head={"num_keypoints": 3, "convs": 1, "width": 8},
        rpn={"post_nms_top_n": 40, "pre_nms_top_n": 40},
        max_detections=9,
    ).eval()
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 64), torch.rand(3, 40, 64)]))
    together = model.decode(raw, DecodeOptions(score_threshold=0.0))
    monkeypatch.setattr(keypoint_rcnn, "ROI_CHUNK_SIZE", 4)
    for one, other in zip(model.decode(raw, DecodeOptions(score_threshold=0.0)), together, strict=True):
        assert torch.allclose(one.keypoints, other.keypoints, atol=1e-4)


@torch.inference_mode()
def test_one_mask_for_all_classes():
    torch.manual_seed(0)
    head = MaskHead(8, 5, MaskHeadConfig(width=16, class_agnostic=True)).eval()
    rois = torch.randn(4, 8, 14, 14)
    assert head.masks.out_channels == 1
    assert torch.equal(head(rois, torch.zeros(4, dtype=torch.int64)), head(rois, torch.arange(4)))


def test_class_agnostic_heads_learn():
    torch.manual_seed(0)
    one = {"class_agnostic": True}
    model = mask_rcnn_lite0_fpn(num_classes=3, mask_head=one, box_head=one, rpn={"post_nms_top_n_training": 40}).eval()
    image = torch.rand(3, 64, 64)
    bitmap = np.zeros((1, 64, 64), bool)
    bitmap[0, 10:40, 10:40] = True
    masks = RLE.from_bitmaps(bitmap)
    target = Instances(
        image_size=(64, 64), boxes=torch.from_numpy(masks.boxes()), labels=torch.tensor([2]), masks=masks
    )
    losses = model.losses(model(ImageBatch.from_tensors([image])), [target])
    sum(losses.values()).backward()
    assert model.box_predictor.deltas.weight.grad.abs().sum() > 0
    assert model.mask_head.masks.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        (found,) = model.decode(model(ImageBatch.from_tensors([image])), DecodeOptions(score_threshold=0.01))
    assert len(found) and set(found.labels.tolist()) <= {0, 1, 2}


def test_aligned_targets_are_half_a_pixel_off():
    bitmap = np.zeros((1, 20, 20), bool)
    bitmap[0, 4:12, 4:12] = True
    masks, box = RLE.from_bitmaps(bitmap), torch.tensor([[4.0, 4, 12, 12]])
    matched = torch.zeros(1, dtype=torch.int64)
    exact = mask_targets(masks, matched, box, 8, aligned=True)
    assert torch.equal(exact, torch.ones(1, 8, 8))  # every bin is a pixel
    shifted = mask_targets(masks, matched, box, 8)
    assert torch.allclose(shifted, mask_targets(masks, matched, box + 0.5, 8, aligned=True))
    assert shifted[0, -1, -1] == 0.25


@pytest.mark.parametrize("num_classes", [1, 3, 80])
@pytest.mark.parametrize("agnostic", [False, True])
def test_every_pixel_starts_about_equally_likely(num_classes, agnostic):
    torch.manual_seed(0)
    head = MaskHead(256, num_classes, MaskHeadConfig(class_agnostic=agnostic))
    rois = torch.randn(8, 256, 14, 14).relu_() * 3  # as strong as a pretrained backbone's
    logits = head(rois, torch.arange(8) % num_classes)
    assert F.binary_cross_entropy_with_logits(logits, (torch.rand_like(logits) > 0.5).float()) < 0.9
