"""YOLACT against recorded outputs of the authors' release and of MMDetection's version."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights
from torch import Tensor

from eachmask.models.instance.yolact import MMDETECTION, RELEASE, YOLACT, Raw, yolact_r50, yolact_r101
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.structures import boxes as box_ops
from eachmask.weights import from_yolact
from eachmask.weights.from_mmdet import yolact as from_mmdet
from eachmask.weights.renaming import fill

MMDET = ("mmdet_yolact_r50", "mmdet_yolact_r101")
ORIGINAL = ("dbolya_yolact_r50", "dbolya_yolact_r101")


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, YOLACT, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    system, said = fixture.manifest["system"], fixture.manifest["config"]
    build = yolact_r101 if "r101" in system else yolact_r50
    if system.startswith("mmdet"):
        scales = tuple((size * said["octave_base_scale"],) for size in said["base_sizes"])
        config = MMDETECTION | {
            "anchor_scales": scales,
            "anchor_ratios": tuple(said["ratios"]),
            "candidates_per_level": said["nms_pre"],
            "candidates_per_class": said["top_k"],
            "score_threshold": said["score_thr"],
            "nms_threshold": said["fast_nms_iou"],
            "max_detections": said["max_per_img"],
            "num_prototypes": said["num_protos"],
        }
        state = from_mmdet.convert(weights(fixture))
    else:
        config = release_config(fixture)
        state = from_yolact.convert(weights(fixture))
    model = build(num_classes=said["num_classes"], **config).eval()
    fill(model, state)
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


def release_config(fixture: Any) -> dict[str, Any]:
    """The release's settings of a fixture in our words; its ratios are width over height, its scales relative."""
    said = fixture.manifest["config"]
    enlarged = fixture.manifest["input"]["width"] / said["input_size"]
    return RELEASE | {
        "anchor_scales": tuple(tuple(scale * enlarged for scale in level) for level in said["pred_scales"]),
        "anchor_ratios": tuple(1 / ratio for ratio in said["aspect_ratios"]),
        "square_anchors": said["square_anchors"],
        "score_threshold": said["conf_thresh"],
        "nms_threshold": said["nms_thresh"],
        "candidates_per_class": said["nms_top_k"],
        "max_detections": said["max_num_detections"],
    }


def test_is_told_when_weights_are_of_something_else():
    with pytest.raises(Exception, match="another"):
        from_yolact.convert({"head.weight": torch.zeros(1)})


@pytest.mark.parametrize("stem", recorded(*MMDET))
def test_raw_outputs_equal_mmdetections(stem):
    fixture, model, raw = ran(stem)
    anchors = model.anchors(raw).split([level[0].numel() // (model.num_classes + 1) for level in raw.logits])
    for i, level in enumerate(raw.features.maps):
        check_raw(fixture, f"neck.{i}", level)
        check_raw(fixture, f"cls.{i}", raw.logits[i])
        check_raw(fixture, f"box.{i}", raw.shifts[i])
        check_raw(fixture, f"coeff.{i}", raw.coefficients[i])
        check_raw(fixture, f"anchors.{i}", anchors[i])
    check_raw(fixture, "proto", raw.prototypes)
    with torch.no_grad():
        check_raw(fixture, "segm", model.semantic(raw.features.maps[0]))


@pytest.mark.parametrize("stem", recorded(*ORIGINAL))
def test_raw_outputs_equal_the_release(stem):
    check_release_raw(*ran(stem))


def check_release_raw(fixture: Any, model: YOLACT, raw: Raw) -> None:
    """The release's layout: levels joined, background first, prototypes channels last, priors relative."""
    for i, level in enumerate(raw.features.maps):
        check_raw(fixture, f"neck.{i}", level)
    logits, shifts, coefficients = model._flat(raw)
    check_raw(fixture, "cls", logits.roll(1, dims=2))
    check_raw(fixture, "box", shifts)
    check_raw(fixture, "coeff", coefficients)
    check_raw(fixture, "proto", raw.prototypes.permute(0, 2, 3, 1))
    size = torch.tensor([raw.batch_size[1], raw.batch_size[0]]).repeat(2)
    check_raw(fixture, "priors", box_ops.convert(model.anchors(raw) / size, "xyxy", "cxcywh"))
    with torch.no_grad():
        check_raw(fixture, "segm", model.semantic(raw.features.maps[0]))


@pytest.mark.parametrize("stem", recorded(*MMDET))
def test_detections_equal_mmdetections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        (found,) = model.decode(raw._replace(sizes=(tuple(case["img_shape"]),)), DecodeOptions())
        check_detections(fixture, name, found.resize(case["ori_shape"]))


@pytest.mark.parametrize("stem", recorded(*ORIGINAL))
def test_detections_equal_the_releases(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        (found,) = model.decode(raw, DecodeOptions())
        check_release_detections(fixture, name, found.resize((case["height"], case["width"])))


def check_release_detections(fixture: Any, name: str, found: Instances, *, scores: Tensor | None = None) -> None:
    """As ``check_detections``. The release cuts boxes off to whole pixels; what it had before was recorded too."""
    case = fixture.manifest["detections"][name]
    size = np.array([case["width"], case["height"]] * 2, np.float32)
    exact = np.clip(fixture.arrays["aux/fast_nms_relative_boxes"] * size, 0, size)
    truncated = fixture.detections(name)["boxes"]
    assert np.abs(exact - truncated - 0.5).max() <= 0.5 + 1e-3
    fixture.arrays[f"det/{name}/boxes"] = exact
    try:
        check_detections(fixture, name, found, scores=scores)
    finally:
        fixture.arrays[f"det/{name}/boxes"] = truncated


def target_of(fixture: Any) -> Instances:
    """The recorded training target."""
    said = fixture.target()
    masks = RLE.from_bitmaps(said["masks"])
    boxes, labels = torch.from_numpy(said["boxes"]), torch.from_numpy(said["labels"])
    return Instances(masks.size, boxes, masks=masks, labels=labels)


@pytest.mark.parametrize("stem", recorded(*MMDET))
def test_losses_equal_mmdetections(stem):
    fixture, model, raw = ran(stem)
    with torch.no_grad():
        losses = model.losses(raw, [target_of(fixture)])
    names = {"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask", "semantic": "loss_segm"}
    check_losses(fixture, losses, names)


@pytest.mark.parametrize("stem", recorded(*ORIGINAL))
def test_losses_equal_the_releases(stem):
    fixture, model, raw = ran(stem)
    with torch.no_grad():
        losses = model.losses(raw, [target_of(fixture)])
    check_losses(fixture, losses, {"class": "C", "box": "B", "mask": "M", "semantic": "S"})


@pytest.mark.parametrize("stem", recorded(*ORIGINAL))
def test_a_threshold_that_is_asked_for_holds_for_every_detection(stem):
    _, model, raw = ran(stem)
    (usual,) = model.decode(raw, DecodeOptions(with_masks=False))
    (strict,) = model.decode(raw, DecodeOptions(with_masks=False, score_threshold=0.1))
    assert float(usual.scores.min()) < 0.1 < float(strict.scores.min())
    model.config = replace(model.config, threshold_each=True)
    (default,) = model.decode(raw, DecodeOptions(with_masks=False))
    model.config = replace(model.config, threshold_each=False)
    assert float(default.scores.min()) > model.config.score_threshold
