"""PointRend computes what MMDetection's and Detectron2's compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    deterministic,
    losses_on_recorded_proposals,
    open_fixture,
    project_of,
    recorded,
    run,
    two_stage_settings,
)
from torch import Tensor

from eachmask.models.instance.pointrend import pointrend_r50_fpn, pointrend_r50_fpn_mmdet, read_grid, read_points
from eachmask.ops import points as point_ops
from eachmask.ops.points import point_sample
from eachmask.weights.from_detectron2 import point_rend as from_detectron2
from eachmask.weights.from_mmdet import point_rend as from_mmdet

LOSSES = {
    "mmdet": {"rpn_box": "loss_rpn_bbox", "box": "loss_bbox", "point": "loss_point"},
    "detectron2": {"rpn_box": "loss_rpn_loc", "box": "loss_box_reg", "point": "loss_mask_point"},
}


@pytest.fixture(scope="module", params=recorded("mmdet_point_rend", "detectron2_point_rend"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    mmdet = project_of(fixture) == "mmdet"
    points = {
        "mask_size": said["final_mask_size"],
        "per_subdivision": said["subdivision_num_points"],
        "per_object": said["train_points"],
        "oversample": said["oversample_ratio"],
        "importance": said["importance_sample_ratio"],
    }
    region_head = {"mask_size": said["mask_size"] if mmdet else said["coarse_size"]}
    config = {"points": points, "region_head": region_head} | two_stage_settings(fixture)
    variant, converter = (pointrend_r50_fpn_mmdet, from_mmdet) if mmdet else (pointrend_r50_fpn, from_detectron2)
    return run(fixture, variant, converter.convert, config)


def test_pyramid_and_proposal_network(ran):
    check_pyramid(ran.fixture, ran.raw.features.maps)
    check_levels(ran.fixture, rpn_cls=ran.raw.objectness, rpn_reg=ran.raw.deltas)


def test_box_head(ran):
    logits, deltas = ran.model.run_box_head(ran.raw.features, [ran.array("aux/rois")])
    check_raw(ran.fixture, "roi_cls", logits)
    check_raw(ran.fixture, "roi_reg", deltas.flatten(1))


def test_coarse_and_point_heads(ran):
    model, features, boxes = ran.model, ran.raw.features, [ran.array("aux/rois")[::4]]
    coarse = model.represent(features, boxes)
    points = torch.from_numpy(np.random.RandomState(8).random_sample((len(boxes[0]), 64, 2)).astype(np.float32))
    fine, read = read_points(features, boxes, points), point_sample(coarse, points)
    check_raw(ran.fixture, "mask_feats", read_grid(features, boxes, model.config.region_head.grid_size))
    check_raw(ran.fixture, "coarse_mask", coarse)
    check_raw(ran.fixture, "point_fine_feats", fine)
    if "point_coarse_feats" in ran.fixture.manifest["raw"]:
        check_raw(ran.fixture, "point_coarse_feats", read)
    check_raw(ran.fixture, "point_logits", model.point_head.classes(model.point_head.hidden(fine, read)))


def test_rendered_masks(ran):
    boxes = ran.array("aux/rois")[::4]
    mask = ran.model.render(ran.raw.features, [boxes], torch.arange(len(boxes)) % ran.model.num_classes)
    mask = mask if ran.project == "mmdet" else mask.sigmoid()[:, None]
    info, expected = ran.fixture.raw("refined_mask")
    assert list(mask.shape) == info["shape"]
    found = mask.flatten()[deterministic().sample_indices(mask.numel())].numpy()
    # Where two cells are equally undecided, either may be asked anew.
    assert np.mean(np.abs(found - expected) / info["std"] < 1e-3) >= 0.995


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    check_decoded(ran, case)


def test_losses(ran, monkeypatch):
    monkeypatch.setattr(point_ops.torch, "rand", recorded_draws(ran))
    names = {"rpn_objectness": "loss_rpn_cls", "class": "loss_cls", "mask": "loss_mask"} | LOSSES[ran.project]
    check_losses(ran.fixture, losses_on_recorded_proposals(ran), names)


def recorded_draws(ran: Ran) -> Callable[..., Tensor]:
    """The reference's random numbers; MMDetection puts true boxes before the proposals, we put them behind."""
    generator = np.random.RandomState(7)
    shapes = ran.fixture.manifest["aux"]["uniform_draws"]["shapes"]
    draws = [torch.from_numpy(generator.random_sample(tuple(shape)).astype(np.float32)) for shape in shapes]
    if ran.project == "mmdet":
        draws = [draw.roll(-len(ran.target()), 0) for draw in draws]
    remaining = iter(draws)

    def rand(*size: int, **_: Any) -> Tensor:
        draw = next(remaining)
        assert draw.shape == size
        return draw

    return rand
