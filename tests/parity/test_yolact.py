"""YOLACT against recorded outputs of the authors' release and of MMDetection's version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import (
    Ran,
    check_decoded,
    check_detections,
    check_levels,
    check_losses,
    check_pyramid,
    check_raw,
    on,
    open_fixture,
    original_size,
    project_of,
    run,
)
from torch import Tensor

from eachmask.models.config import changed, merged
from eachmask.models.instance.yolact import MMDETECTION, RELEASE, yolact_r50, yolact_r101
from eachmask.structures import DecodeOptions, Instances
from eachmask.structures import boxes as box_ops
from eachmask.weights import from_yolact
from eachmask.weights.from_mmdet import yolact as from_mmdet

MMDET = ("mmdet_yolact_r50", "mmdet_yolact_r101")
ORIGINAL = ("dbolya_yolact_r50", "dbolya_yolact_r101")
CASES = ("plain", "rescaled")


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    variant = yolact_r101 if "r101" in fixture.manifest["system"] else yolact_r50
    if project_of(fixture) != "mmdet":
        return run(fixture, variant, from_yolact.convert, release_config(fixture))
    config = {
        "anchors": {
            "scales": tuple((size * said["octave_base_scale"],) for size in said["base_sizes"]),
            "ratios": tuple(said["ratios"]),
        },
        "select": {"per_level": said["nms_pre"], "per_class": said["top_k"]},
        "prototypes": {"num": said["num_protos"]},
        "score_threshold": said["score_thr"],
        "nms_threshold": said["fast_nms_iou"],
        "max_detections": said["max_per_img"],
    }
    return run(fixture, variant, from_mmdet.convert, merged(MMDETECTION, config))


def release_config(fixture: Any) -> dict[str, Any]:
    """The release's settings of a fixture in our words; its ratios are width over height, its scales relative."""
    said = fixture.manifest["config"]
    enlarged = fixture.manifest["input"]["width"] / said["input_size"]
    config = {
        "anchors": {
            "scales": tuple(tuple(scale * enlarged for scale in level) for level in said["pred_scales"]),
            "ratios": tuple(1 / ratio for ratio in said["aspect_ratios"]),
            "square": said["square_anchors"],
        },
        "select": {"per_class": said["nms_top_k"]},
        "score_threshold": said["conf_thresh"],
        "nms_threshold": said["nms_thresh"],
        "max_detections": said["max_num_detections"],
    }
    return merged(RELEASE, config)


def test_is_told_when_weights_are_of_something_else():
    with pytest.raises(Exception, match="another"):
        from_yolact.convert({"head.weight": torch.zeros(1)})


@on(*MMDET)
def test_raw_outputs_equal_mmdetections(ran):
    fixture, model, raw = ran
    check_pyramid(fixture, raw.features.maps)
    check_levels(fixture, cls=raw.logits, box=raw.deltas, coeff=raw.coefficients)
    counts = [level[0].numel() // (model.num_classes + 1) for level in raw.logits]
    check_levels(fixture, anchors=model.anchors(raw).split(counts))
    check_raw(fixture, "proto", raw.prototypes)
    check_raw(fixture, "segm", model.semantic(raw.features.maps[0]))


@on(*ORIGINAL)
def test_raw_outputs_equal_the_release(ran):
    check_release_raw(ran)


def check_release_raw(ran: Ran) -> None:
    """The release's layout: levels joined, background first, prototypes channels last, priors relative."""
    fixture, model, raw = ran
    check_pyramid(fixture, raw.features.maps)
    logits, deltas, coefficients = model._flat(raw)
    check_raw(fixture, "cls", logits.roll(1, dims=2))
    check_raw(fixture, "box", deltas)
    check_raw(fixture, "coeff", coefficients)
    check_raw(fixture, "proto", raw.prototypes.permute(0, 2, 3, 1))
    size = torch.tensor([raw.batch_size[1], raw.batch_size[0]]).repeat(2)
    check_raw(fixture, "priors", box_ops.convert(model.anchors(raw) / size, "xyxy", "cxcywh"))
    check_raw(fixture, "segm", model.semantic(raw.features.maps[0]))


@pytest.mark.parametrize("case", CASES)
@on(*MMDET)
def test_detections_equal_mmdetections(ran, case):
    check_decoded(ran, case)


@pytest.mark.parametrize("case", CASES)
@on(*ORIGINAL)
def test_detections_equal_the_releases(ran, case):
    (found,) = ran.model.decode(ran.raw, DecodeOptions())
    check_release_detections(ran.fixture, case, found)


def check_release_detections(fixture: Any, case: str, found: Instances, *, scores: Tensor | None = None) -> None:
    """As ``check_detections``. The release cuts boxes off to whole pixels; what it had before was recorded too."""
    height, width = original_size(fixture, case)
    size = np.array([width, height] * 2, np.float32)
    exact = np.clip(fixture.arrays["aux/fast_nms_relative_boxes"] * size, 0, size)
    truncated = fixture.detections(case)["boxes"]
    assert np.abs(exact - truncated - 0.5).max() <= 0.5 + 1e-3
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fixture.arrays, f"det/{case}/boxes", exact)
        check_detections(fixture, case, found, scores=scores)


@on(*MMDET)
def test_losses_equal_mmdetections(ran):
    names = {"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask", "semantic": "loss_segm"}
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), names)


@on(*ORIGINAL)
def test_losses_equal_the_releases(ran):
    names = {"class": "C", "box": "B", "mask": "M", "semantic": "S"}
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), names)


@on(*ORIGINAL)
def test_a_threshold_that_is_asked_for_holds_for_every_detection(ran, monkeypatch):
    _, model, raw = ran
    (usual,) = model.decode(raw, DecodeOptions(with_masks=False))
    (strict,) = model.decode(raw, DecodeOptions(with_masks=False, score_threshold=0.1))
    assert float(usual.scores.min()) < 0.1 < float(strict.scores.min())
    monkeypatch.setattr(model, "config", changed(model.config, {"select": {"threshold_each": True}}))
    (default,) = model.decode(raw, DecodeOptions(with_masks=False))
    assert float(default.scores.min()) > model.config.score_threshold
