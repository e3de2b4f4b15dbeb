"""The two-stage family computes what torchvision's models compute, on random weights and images of several sizes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models import detection as theirs

from eachmask import models
from eachmask.models.detection import faster_rcnn, rpn
from eachmask.models.detection.faster_rcnn import FasterRCNN
from eachmask.models.instance.keypoint_rcnn import find_peaks
from eachmask.ops.match import UNMATCHED
from eachmask.structures import RLE, DecodeOptions, Instances, Preprocess
from eachmask.weights.from_torchvision import convert

NUM_CLASSES = 5
SHORT, LONG = 128, 200
KEPT = 25
SIZES = [(96, 130), (150, 90), (111, 111)]
NAMES = {
    "faster_rcnn_r50_fpn": theirs.fasterrcnn_resnet50_fpn,
    "faster_rcnn_r50_fpn_v2": theirs.fasterrcnn_resnet50_fpn_v2,
    "mask_rcnn_r50_fpn": theirs.maskrcnn_resnet50_fpn,
    "mask_rcnn_r50_fpn_v2": theirs.maskrcnn_resnet50_fpn_v2,
    "keypoint_rcnn_r50_fpn": theirs.keypointrcnn_resnet50_fpn,
}


def weights_for(name: str, value: torch.Tensor, deep: bool) -> torch.Tensor:
    """Random but repeatable, with activations and scores in a realiztic range."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if not value.is_floating_point():
        return torch.zeros(value.shape, dtype=value.dtype)
    if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
        scale = 0.3 if ("bn3" in name and name.endswith("weight")) else 1.0  # tame the residual sums
        return scale * (0.8 + 0.4 * torch.rand(value.shape, generator=generator))
    noise = torch.randn(value.shape, generator=generator)
    if value.ndim == 1:
        return 0.05 * noise
    gain = 2.0**0.5
    if "cls_score" in name:  # confident, but not so much that scores tie at 1
        gain = 0.1 if deep else 0.3
    if "bbox_pred" in name:
        gain = 0.2 if deep else 0.5
    return noise * (gain / value[0].numel() ** 0.5)


def build(name: str) -> tuple[torch.nn.Module, FasterRCNN]:
    """Both models with the same weights."""
    num_classes = 1 if "keypoint" in name else NUM_CLASSES
    with torch.device("meta"):  # no time is spent on initial values that are overwritten at once
        reference = NAMES[name](
            weights=None,
            weights_backbone=None,
            num_classes=num_classes + 1,
            min_size=SHORT,
            max_size=LONG,
            box_detections_per_img=KEPT,
        )
        ours = models.variant(name)(num_classes=num_classes, max_detections=KEPT)
    state = {k: weights_for(k, v, name.endswith("v2")) for k, v in reference.state_dict().items()}
    reference.load_state_dict(state, assign=True)
    ours.load_state_dict(convert(state), assign=True)
    return reference.eval(), ours.eval()


def made_images(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for height, width in SIZES:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.float32)
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(coarse).permute(2, 0, 1)[None], size=(height, width), mode="bicubic"
        )[0]
        arrays.append(smooth.clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return arrays


def tensors(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(p).permute(2, 0, 1) / 255 for p in arrays]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_same_detections(name):
    reference, ours = build(name)
    arrays = made_images()
    expected = reference(tensors(arrays))
    batch = Preprocess(short_side=SHORT, long_side=LONG)(arrays)
    raw = ours(batch)
    found = ours.decode(raw, DecodeOptions(paste="compatible"))
    boxes = [instances.boxes for instances in found]
    for number, (pixels, theirs_, mine) in enumerate(zip(arrays, expected, found, strict=True)):
        mine = mine.resize(pixels.shape[:2])
        assert len(mine) == len(theirs_["scores"]) >= 10
        assert torch.allclose(mine.scores, theirs_["scores"], atol=1e-4)
        assert torch.equal(mine.labels + 1, theirs_["labels"])
        assert torch.allclose(mine.boxes, theirs_["boxes"], atol=0.01)
        if "masks" in theirs_:
            masks = theirs_["masks"][:, 0].numpy() > 0.5
            iou = np.diag(mine.masks.iou(RLE.from_bitmaps(masks)))
            both_empty = (masks.sum((1, 2)) == 0) & (mine.masks.area() == 0)
            assert np.all((iou >= 0.999) | both_empty)
        if "keypoints" in theirs_:
            assert torch.allclose(mine.keypoints[..., :2], theirs_["keypoints"][..., :2], atol=0.05)
            # Theirs report the peak's logit, ours its softmax.
            maps = ours.keypoint_logits(raw.features, boxes).split([len(b) for b in boxes])[number]
            assert torch.allclose(find_peaks(maps, boxes[number])[..., 2], theirs_["keypoints_scores"], atol=1e-3)


def made_targets(images: list[np.ndarray], num_classes: int) -> list[dict[str, torch.Tensor]]:
    """torchvision targets: boxes with ellipses in them; one image without any object."""
    rng = np.random.default_rng(5)
    targets = []
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        num = 0 if i == 1 else 4
        masks = np.zeros((num, height, width), np.uint8)
        ys, xs = np.mgrid[:height, :width]
        for mask in masks:
            cy, cx = rng.uniform(20, height - 20), rng.uniform(20, width - 20)
            ry, rx = rng.uniform(8, 30, 2)
            mask[((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1] = 1
        boxes = torch.from_numpy(RLE.from_bitmaps(masks.astype(bool)).boxes())
        points = torch.rand(num, 17, 2, generator=torch.Generator().manual_seed(i))
        points = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
        targets.append(
            {
                "boxes": boxes,
                "labels": torch.from_numpy(rng.integers(1, num_classes + 1, num)),
                "masks": torch.from_numpy(masks),
                "keypoints": torch.cat([points, torch.full((num, 17, 1), 2.0)], dim=2),
            }
        )
    return targets


@pytest.mark.parametrize("name", NAMES)
def test_same_losses_on_the_same_proposals(name, monkeypatch):
    reference, ours = build(name)
    arrays = made_images(1)
    targets = made_targets(arrays, ours.num_classes)
    # Both draw everything there is, so chance has no part; normalization stays in eval mode in both.
    everything = torchvision.models.detection._utils.BalancedPositiveNegativeSampler(10**6, 1.0)

    def take_all(matched):
        return [torch.where(m >= 1, 1, 0) for m in matched], [torch.where(m == 0, 1, 0) for m in matched]

    everything.__class__ = type("All", (type(everything),), {"__call__": lambda self, m: take_all(m)})
    reference.rpn.fg_bg_sampler = reference.roi_heads.fg_bg_sampler = everything
    for module in (reference, reference.rpn, reference.roi_heads):
        module.training = True
    transformed, resized = reference.transform(tensors(arrays), targets)
    features = reference.backbone(transformed.tensors)
    proposals, rpn_losses = reference.rpn(transformed, features, resized)
    _, head_losses = reference.roi_heads(features, proposals, transformed.image_sizes, resized)
    expected = rpn_losses | head_losses

    for stage in (rpn, faster_rcnn):
        monkeypatch.setattr(stage, "sample", lambda matched, *_: (matched >= 0, matched == UNMATCHED))
    batch = Preprocess(short_side=SHORT, long_side=LONG)(arrays)
    mine = []
    for target, size in zip(resized, batch.sizes, strict=True):
        masks = target["masks"].numpy().astype(bool)
        mine.append(
            Instances(
                image_size=size,
                boxes=target["boxes"],
                labels=target["labels"] - 1,
                masks=RLE.from_bitmaps(masks) if len(masks) else RLE.empty(size),
                keypoints=target["keypoints"],
            )
        )
    losses = ours.losses(ours(batch), mine)
    pairs = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
        "keypoint": "loss_keypoint",
    }
    assert {pairs[k] for k in losses} == set(expected)
    for key, value in losses.items():
        assert float(value) == pytest.approx(float(expected[pairs[key]]), rel=1e-4, abs=1e-4), key
