"""FCOS against recorded outputs of MMDetection."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask.models.detection.fcos import FCOS, FIRST, Raw, fcos_r50_fpn
from eachmask.structures import DecodeOptions, Instances
from eachmask.weights.from_mmdet import fcos as from_mmdet
from eachmask.weights.renaming import fill

SYSTEMS = recorded("mmdet_fcos_r50")


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, FCOS, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    config = {} if said["norm_on_bbox"] else dict(FIRST)
    config |= {
        "ranges": tuple(high for _, high in said["regress_ranges"][:-1]),
        "radius": said["center_sample_radius"] if said["center_sampling"] else None,
        "centerness_on": "box" if said["centerness_on_reg"] else "class",
        "candidates": said["nms_pre"],
        "score_threshold": said["score_thr"],
        "nms_threshold": said["nms"],
        "max_detections": said["max_per_img"],
    }
    model = fcos_r50_fpn(num_classes=said["num_classes"], **config).eval()
    fill(model, from_mmdet.convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_raw_outputs(stem):
    fixture, model, raw = ran(stem)
    assert list(raw.features.strides) == fixture.manifest["config"]["strides"]
    for i, points in enumerate(model.points(raw)):
        check_raw(fixture, f"neck.{i}", raw.features.maps[i])
        check_raw(fixture, f"cls.{i}", raw.logits[i])
        check_raw(fixture, f"box.{i}", raw.distances[i])
        check_raw(fixture, f"centerness.{i}", raw.centerness[i])
        check_raw(fixture, f"points.{i}", points)


@pytest.mark.parametrize("stem", SYSTEMS)
def test_detections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        (found,) = model.decode(raw._replace(sizes=(tuple(case["img_shape"]),)), DecodeOptions())
        check_detections(fixture, name, found.resize(case["ori_shape"]))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_losses(stem):
    fixture, model, raw = ran(stem)
    target = fixture.target()
    truth = Instances(raw.sizes[0], torch.from_numpy(target["boxes"]), labels=torch.from_numpy(target["labels"]))
    names = {"class": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness"}
    check_losses(fixture, model.losses(raw, [truth]), names)
