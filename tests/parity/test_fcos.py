"""FCOS against recorded outputs of MMDetection."""

from __future__ import annotations

import pytest
from parity.recorded import (
    CASES,
    Ran,
    check_decoded,
    check_levels,
    check_losses,
    check_pyramid,
    open_fixture,
    recorded,
    run,
)

from eachmask.models.config import merged
from eachmask.models.detection.fcos import FIRST, fcos_r50_fpn
from eachmask.weights.from_mmdet import fcos as from_mmdet


@pytest.fixture(scope="module", params=recorded("mmdet_fcos_r50"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    config = {
        "head": {"centerness_on": "box" if said["centerness_on_reg"] else "class"},
        "assign": {
            "ranges": tuple(high for _, high in said["regress_ranges"][:-1]),
            "radius": said["center_sample_radius"] if said["center_sampling"] else None,
        },
        "select": {"candidates": said["nms_pre"]},
        "score_threshold": said["score_thr"],
        "nms_threshold": said["nms"],
        "max_detections": said["max_per_img"],
    }
    return run(fixture, fcos_r50_fpn, from_mmdet.convert, merged({} if said["norm_on_bbox"] else FIRST, config))


def test_raw_outputs(ran):
    raw = ran.raw
    assert list(raw.features.strides) == ran.said["strides"]
    check_pyramid(ran.fixture, raw.features.maps)
    check_levels(ran.fixture, cls=raw.logits, box=raw.distances, centerness=raw.centerness)
    check_levels(ran.fixture, points=ran.model.points(raw))


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    check_decoded(ran, case)


def test_losses(ran):
    names = {"class": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness"}
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), names)
