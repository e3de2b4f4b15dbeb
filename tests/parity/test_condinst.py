"""CondInst against recorded outputs of MMDetection and AdelaiDet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.recorded import (
    CASES,
    Ran,
    check_decoded,
    check_levels,
    check_losses,
    check_pyramid,
    check_raw,
    in_strides,
    on,
    open_fixture,
    project_of,
    run,
)

from eachmask.models.instance.condinst import ADELAIDET as ADELAIDETS
from eachmask.models.instance.condinst import condinst_r50_fpn, condinst_r50_fpn_adelaidet
from eachmask.weights.from_detectron2 import condinst as from_detectron2
from eachmask.weights.from_mmdet import condinst as from_mmdet

MMDET, ADELAIDET = "mmdet_condinst_r50", "adelaidet_condinst_r50"
LOSSES = {
    "mmdet": {"class": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness", "mask": "loss_mask"},
    "adelaidet": {"class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr", "mask": "loss_mask"},
}


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    if project_of(fixture) == "mmdet":
        config = {
            "select": {"candidates": said["nms_pre"]},
            "score_threshold": said["score_thr"],
            "nms_threshold": said["nms"],
            "max_detections": said["max_per_img"],
        }
        return run(fixture, condinst_r50_fpn, from_mmdet.convert, config)
    assert ADELAIDETS.select.threshold_on == ("product" if said["thresh_with_ctr"] else "class")
    config = {
        "assign": {"ranges": tuple(said["sizes_of_interest"])},
        "score_threshold": said["pre_nms_thresh"],
        "nms_threshold": said["nms"],
        "max_detections": said["post_nms_topk"],
    }
    return run(fixture, condinst_r50_fpn_adelaidet, from_detectron2.convert, config)


@on(MMDET, ADELAIDET)
def test_raw_outputs(ran):
    found = ran.raw.detection
    assert list(found.features.strides) == ran.said["strides"]
    check_pyramid(ran.fixture, found.features.maps)
    distances = in_strides(found) if ran.project == "adelaidet" else found.distances
    kernels = [ran.raw.kernels.controller(level) for level in ran.raw.kernels.levels]
    check_levels(ran.fixture, cls=found.logits, box=distances, centerness=found.centerness, params=kernels)
    check_raw(ran.fixture, "mask_feat", ran.raw.mask_features)


@on(MMDET)
def test_masks_of_networks(ran):
    level = ran.raw.kernels.controller(ran.raw.kernels.levels[1])
    rows, columns = level.shape[-2:]
    cells = torch.from_numpy(np.random.RandomState(9).randint(0, rows * columns, 8))
    places = ran.model.places(ran.raw, cells + ran.raw.kernels.levels[0][0, 0].numel())
    check_raw(ran.fixture, "dynamic_mask", ran.model.mask_logits(ran.raw, 0, level[0].flatten(1).T[cells], places))


@pytest.mark.parametrize("case", CASES)
@on(MMDET, ADELAIDET)
def test_detections(ran, case):
    check_decoded(ran, case)


@on(MMDET, ADELAIDET)
def test_losses(ran):
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), LOSSES[ran.project])
