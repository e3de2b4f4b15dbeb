from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from processes import WITH_BENCHMARKS

from eachmask.models.config import changed
from eachmask.models.instance import yolact_plus
from eachmask.models.instance.yolact import YOLACT, Protonet, PrototypeConfig, yolact_lite0
from eachmask.models.instance.yolact_losses import assign, mask_loss, semantic_loss
from eachmask.models.instance.yolact_plus import DeformableConv, MaskIoU, yolact_plus_r18
from eachmask.ops.match import IGNORED, UNMATCHED
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


@pytest.fixture(scope="module")
def model() -> YOLACT:
    torch.manual_seed(0)
    return yolact_lite0(num_classes=3).eval()


def objects(size: tuple[int, int], boxes: list[list[int]]) -> Instances:
    bitmaps = np.zeros((len(boxes), *size), bool)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
        bitmap[y1:y2, x1:x2] = True
    masks = RLE.from_bitmaps(bitmaps)
    return Instances(size, torch.from_numpy(masks.boxes()), masks, torch.zeros(len(boxes), dtype=torch.int64))


def test_prototypes_are_twice_as_fine_and_never_negative():
    prototypes = Protonet(8, PrototypeConfig(width=16, num=5))(torch.randn(2, 8, 6, 9))
    assert prototypes.shape == (2, 5, 12, 18) and float(prototypes.detach().min()) == 0


@torch.inference_mode()
def test_anchors_are_centerd_on_cells(model):
    raw = model(ImageBatch.from_tensors([torch.zeros(3, 64, 96)]))
    anchors = model.anchors(raw)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers[0].tolist() == [4, 4] and centers[3].tolist() == [12, 4]
    sides = anchors[:, 2:] - anchors[:, :2]
    assert torch.allclose(sides[:3].prod(1), torch.tensor(16.0**2))
    assert torch.allclose(sides[:3, 1] / sides[:3, 0], torch.tensor([1.0, 2.0, 0.5]))
    square = yolact_lite0(num_classes=3, anchors={"square": True}).anchors(raw)
    sides = square[:, 2:] - square[:, :2]
    assert torch.allclose(sides[:, 0], sides[:, 1])


@torch.inference_mode()
def test_two_objects_in_one_place_get_an_anchor_each(model):
    raw = model(ImageBatch.from_tensors([torch.zeros(3, 64, 96)]))
    target = objects((64, 96), [[41, 41, 44, 44], [41, 41, 44, 44], [40, 40, 44, 43]])
    matched = assign(model.anchors(raw), target, model.config.anchors)
    assert {0, 1, 2} <= set(matched.tolist())
    shared = replace(model.config.anchors, one_each=False)
    assert set(assign(model.anchors(raw), target, shared).tolist()) == {2, UNMATCHED}, "MMDetection's: the last has it"


@torch.inference_mode()
def test_an_image_without_objects_is_all_background_or_nothing(model):
    raw = model(ImageBatch.from_tensors([torch.zeros(3, 64, 96)] * 2))
    found, nothing = objects((64, 96), [[20, 20, 60, 50]]), Instances.empty((64, 96))
    logits = model._flat(raw)[0]
    background = torch.nn.functional.cross_entropy(logits[0], torch.full((len(logits[0]),), 3))
    assert float(model.losses(raw, [nothing, nothing])["class"]) == 0
    try:
        usual, model.config = model.config, changed(model.config, {"loss": {"learn_empty": True}})
        empty = model.losses(raw, [nothing, nothing])
        mixed, alone = model.losses(raw, [found, nothing]), model.losses(raw, [found, found])
    finally:
        model.config = usual
    assert float(empty["class"]) == pytest.approx(float(background) * len(logits[0]), rel=1e-4)
    positives = int((assign(model.anchors(raw), found, model.config.anchors) >= 0).sum())
    assert float(mixed["box"]) == pytest.approx(float(alone["box"]) * positives / (positives + 1), rel=1e-4)


@torch.inference_mode()
def test_semantic_maps_learn_from_images_without_objects_but_for_mmdetections(model):
    raw = model(ImageBatch.from_tensors([torch.zeros(3, 64, 96)] * 2))
    found, nothing, where = objects((64, 96), [[20, 20, 60, 50]]), Instances.empty((64, 96)), raw.batch_size
    logits = model.semantic(raw.features.maps[0])
    slipped = replace(model.config.loss, semantic_off_by_one=True)
    assert float(semantic_loss(logits, [nothing, nothing], where, model.config.loss)) > 0
    assert float(semantic_loss(logits, [nothing, nothing], where, slipped)) == 0
    both, alone = (float(semantic_loss(logits[: len(t)], t, where, slipped)) for t in ([found, nothing], [found]))
    assert both == alone > 0


@torch.inference_mode()
def test_anchors_in_a_crowd_are_not_background(model):
    raw = model(ImageBatch.from_tensors([torch.zeros(3, 64, 96)]))
    target = objects((64, 96), [[0, 0, 40, 40], [60, 30, 76, 46]])
    target.crowd = torch.tensor([True, False])
    anchors = model.anchors(raw)
    matched = assign(anchors, target, model.config.anchors)
    inside = ((anchors >= 0) & (anchors <= 40)).all(dim=1)
    assert inside.any() and (matched[inside] == IGNORED).all()
    assert (matched == UNMATCHED).any() and (matched == 1).any() and not (matched == 0).any()


@torch.inference_mode()
def test_padding_hardly_changes_the_masks(model):
    """The chain through the padded size and the direct one are the same to a pixel at the outlines."""
    image = torch.rand(3, 64, 96)
    (tight,) = model.decode(model(ImageBatch.from_tensors([image])), DecodeOptions(score_threshold=0.01))
    raw = model(ImageBatch.from_tensors([image]))
    shorter = raw._replace(sizes=((64, 95),))
    (padded,) = model.decode(shorter, DecodeOptions(score_threshold=0.01))
    assert padded.masks.size == (64, 95) and len(padded) == len(tight)
    one, other = tight.masks.to_rle().decode()[..., :95], padded.masks.to_rle().decode()
    assert np.mean(one != other) < 0.01


def test_more_positives_than_the_limit_are_sampled_and_weigh_the_same(model):
    torch.manual_seed(0)
    batch = ImageBatch.from_tensors([torch.rand(3, 96, 96)])
    target = objects((96, 96), [[10, 10, 60, 70], [30, 40, 90, 90], [5, 50, 40, 90]])
    with torch.no_grad():
        raw = model(batch)
        coefficients = model._flat(raw)[2]
        matched = assign(model.anchors(raw), target, model.config.anchors)[None]
        parts = raw.prototypes, coefficients, matched, [target], raw.batch_size
        all_of_them, _ = mask_loss(*parts, model.config.loss)
        few = replace(model.config.loss, masks_per_image=2)
        sampled = [float(mask_loss(*parts, few)[0]) for _ in range(300)]
    assert (matched >= 0).sum() > 2
    assert np.mean(sampled) == pytest.approx(float(all_of_them), rel=0.1) and np.std(sampled) > 0


def test_deformable_convolution_begins_as_a_plain_one_of_half_the_weight():
    torch.manual_seed(0)
    conv, x = DeformableConv(4, 6, stride=2), torch.randn(2, 4, 9, 11)
    expected = torch.nn.functional.conv2d(x, conv.weight, stride=2, padding=1) / 2
    assert torch.allclose(conv(x), expected, atol=1e-5)
    conv.offsets.bias.data[0:18:2] = 1  # every sample one row further down
    moved = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 0, 2)), conv.weight, stride=2) / 2
    assert torch.allclose(conv(x), moved, atol=1e-5)


def test_deformable_convolution_of_some_channels_at_a_time_is_the_same(monkeypatch):
    torch.manual_seed(0)
    conv, x = DeformableConv(7, 6, stride=1), torch.randn(2, 7, 9, 11)
    conv.offsets.weight.data.normal_()
    conv.bias.data.normal_()
    expected = conv(x).detach()
    for samples in (1, 3 * 2 * 9 * 9 * 11):
        monkeypatch.setattr(yolact_plus, "SAMPLE_CHUNK_SIZE", samples)
        with torch.no_grad():
            assert torch.allclose(conv(x), expected, atol=1e-5)


def test_every_cell_of_a_grid_is_judged():
    assert MaskIoU(7)(torch.zeros(2, 1, 63, 63)).shape == (2, 7)
    assert MaskIoU(7)(torch.zeros(2, 1, 138, 138)).shape == (2, 7)


@torch.inference_mode()
def test_rescored_are_the_same_objects_in_another_order():
    torch.manual_seed(0)
    model = yolact_plus_r18(num_classes=3).eval()
    model.mask_iou[-4].bias.fill_(0.5)
    raw = model(ImageBatch.from_tensors([torch.rand(3, 64, 96)]))
    (found,) = model.decode(raw, DecodeOptions())
    model.config = changed(model.config, {"rescore": {"used": False}})
    (plain,) = model.decode(raw, DecodeOptions())
    assert len(found) == len(plain) > 0
    assert sorted(found.boxes.tolist()) == sorted(plain.boxes.tolist())
    assert float(found.scores.max()) <= float(plain.scores.max())


@torch.inference_mode()
def test_a_threshold_is_of_the_score_that_is_reported():
    """A mask whose predicted overlap is above 1 raises its object's score."""
    torch.manual_seed(0)
    plus = yolact_plus_r18(num_classes=2).eval()
    (last,) = (layer for layer in plus.mask_iou if getattr(layer, "kernel_size", None) == (1, 1))
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 1.5)
    torch.nn.init.normal_(plus.head.classes.weight, std=0.01)
    raw = plus(ImageBatch.from_tensors([torch.randn(3, 64, 96)]))
    (every,) = plus.decode(raw, DecodeOptions(score_threshold=plus.config.score_threshold))
    threshold = float(every.scores.median())
    (sure,) = plus.decode(raw, DecodeOptions(score_threshold=threshold))
    assert threshold > plus.config.score_threshold
    assert len(sure) and torch.equal(sure.scores, every.scores[every.scores > threshold])


def test_the_catalogue_builds_mmdetections_version():
    from eachmask.models.instance.yolact import MMDETECTION, Config
    from eachmask.weights.catalogue import find

    for name in ("yolact_r50", "yolact_r101"):
        assert changed(Config(), find(name).config) == changed(Config(), MMDETECTION)
        assert find(name).preprocess.target_size(480, 640) == (550, 550)


MANY = """
import torch
from eachmask.models.instance.yolact import assemble, soft_masks
torch.manual_seed(0)
side, num = 4000, 500
corner = torch.rand(num, 2) * 3500
boxes = torch.cat([corner, corner + 50 + torch.rand(num, 2) * 450], 1)
prototypes = torch.rand(32, side // 4, side // 4)
crops = assemble(prototypes, torch.randn(num, 32), boxes, (side, side))
masks = soft_masks(crops, (side // 4, side // 4), (side, side), (side, side), 0.5).to_rle()
assert len(masks) == num and masks.area().sum() > 0
from peak_memory import peak_mb
print(round(peak_mb()))
"""


def test_500_objects_on_16_megapixels_stay_small():
    """The whole process, with torch in it, below 1.5 GB."""
    command = [sys.executable, "-c", MANY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=WITH_BENCHMARKS)
    assert int(done.stdout) < 1500
