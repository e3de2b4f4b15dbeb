"""TensorMask against recorded outputs of Detectron2's project."""

from __future__ import annotations

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
    open_fixture,
    recorded,
    run,
)

from eachmask.models.instance.tensormask import tensormask_r50_fpn
from eachmask.weights.from_detectron2 import tensormask as from_detectron2


@pytest.fixture(scope="module", params=recorded("detectron2_tensormask_r50"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    config = {
        "windows": {"sides": tuple(said["mask_sizes"])},
        "loss": {
            "alpha": said["focal_alpha"],
            "gamma": said["focal_gamma"],
            "mask_weight": said["mask_loss_weight"],
            "positive_weight": said["positive_weight"],
        },
        "box_weights": tuple(said["bbox_reg_weights"]),
        "candidates": said["topk"],
        "score_threshold": said["score_thr"],
        "nms_threshold": said["nms"],
    }
    return run(fixture, tensormask_r50_fpn, from_detectron2.convert, config)


def test_raw_outputs(ran):
    raw, said = ran.raw, ran.said
    assert list(raw.features.strides) == said["strides"]
    check_pyramid(ran.fixture, raw.features.maps)
    check_levels(ran.fixture, cls=raw.logits, box=raw.deltas)
    for level, anchors in enumerate(ran.model.anchors(raw)):
        assert (anchors[: len(said["mask_sizes"]), 2] * 2).tolist() == said["anchor_sizes"][level]


def test_natural_masks(ran):
    """Those of every window of every level, in the reference's order: mask values as channels."""
    windows, first = ran.model.config.windows.sides, 0
    for level, features in enumerate(ran.raw.mask_features):
        height, width = features.shape[-2:]
        for a, window in enumerate(windows):
            places = first + torch.arange(height * width) * len(windows) + a
            masks = torch.cat([logits for _, logits in ran.model.natural_masks(ran.raw, 0, places)])
            check_raw(ran.fixture, f"mask.{level}.{window}", masks.flatten(1).T.reshape(1, -1, height, width))
        first += height * width * len(windows)


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    check_decoded(ran, case)


def test_losses(ran):
    names = {"class": "loss_cls", "box": "loss_box_reg", "mask": "loss_mask"}
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), names)
