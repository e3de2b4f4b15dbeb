"""BlendMask against recorded outputs of AdelaiDet."""

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
    open_fixture,
    recorded,
    run,
)

from eachmask.models.instance.blendmask import Config, blend, blendmask_r50_fpn
from eachmask.weights.from_detectron2 import blendmask as from_detectron2


@pytest.fixture(scope="module", params=recorded("adelaidet_blendmask_r50"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    config = {
        "assign": {"ranges": tuple(said["sizes_of_interest"])},
        "head": {"scales": said["use_scale"]},
        "select": {"candidates": said["pre_nms_topk"]},
        "score_threshold": said["pre_nms_thresh"],
        "nms_threshold": said["nms"],
        "max_detections": said["post_nms_topk"],
        "blend": {
            "bases": said["num_bases"],
            "attention_size": said["attn_size"],
            "base_size": said["bottom_resolution"],
        },
    }
    assert Config().select.threshold_on == ("product" if said["thresh_with_ctr"] else "class")
    return run(fixture, blendmask_r50_fpn, from_detectron2.convert, config)


def test_raw_outputs(ran):
    found = ran.raw.detection
    assert list(found.features.strides) == ran.said["strides"]
    check_pyramid(ran.fixture, found.features.maps)
    check_levels(ran.fixture, cls=found.logits, box=in_strides(found), centerness=found.centerness)
    check_levels(ran.fixture, attention=ran.raw.attention)
    check_raw(ran.fixture, "bases", ran.raw.bases)


def test_blending(ran):
    rois, c = ran.array("aux/rois"), ran.model.config.blend
    random = np.random.RandomState(4).standard_normal((len(rois), c.bases * c.attention_size**2)).astype(np.float32)
    attention = ran.model.maps(torch.from_numpy(random))
    check_raw(ran.fixture, "blend", blend(ran.model.cut(ran.raw.bases, [rois]), attention))


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    check_decoded(ran, case)


def test_losses(ran):
    names = {"class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr", "mask": "loss_mask",
             "semantic": "loss_basis_sem"}  # fmt: skip
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), names)
