"""BoundaryFormer computes what the authors' implementation computes."""

from __future__ import annotations

import pytest
import torch
from parity.recorded import (
    CASES,
    Ran,
    all_sampled,
    check_decoded,
    check_losses,
    check_pyramid,
    check_raw,
    losses_on_recorded_proposals,
    open_fixture,
    recorded,
    run,
)

from eachmask.models.instance.boundaryformer import boundaryformer_r50_fpn, vertex_encoding
from eachmask.weights.from_detectron2.boundaryformer import convert


@pytest.fixture(scope="module", params=recorded("boundaryformer"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    head = {
        "first_points": said["base_points"],
        "num_points": said["num_points"],
        "attention_heads": said["heads"],
        "samples": said["dec_points"],
        "feedforward": said["feedforward"],
        "levels": len(said["levels"]),
        "raster_size": said["raster_resolution"],
        "smoothness": said["inv_smoothness"],
    }
    return run(fixture, boundaryformer_r50_fpn, convert, {"polygon_head": head} | all_sampled(fixture))


def test_pyramid(ran):
    check_pyramid(ran.fixture, ran.raw.features.maps)


def test_box_head(ran):
    logits, deltas = ran.model.run_box_head(ran.raw.features, [ran.array("aux/rois")])
    check_raw(ran.fixture, "roi_cls", logits)
    check_raw(ran.fixture, "roi_reg", deltas.flatten(1))


def test_numbers_of_vertices(ran):
    expected = ran.array("aux/point_embedding")
    assert torch.allclose(vertex_encoding(*expected.shape), expected, atol=1e-5)


def test_polygons(ran):
    (layers,) = ran.model.polygons(ran.raw, [ran.array("aux/rois")])
    check_raw(ran.fixture, "polygons", layers[-1])


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    check_decoded(ran, case)


def test_losses(ran):
    names = {"rpn_objectness": "loss_rpn_cls", "rpn_box": "loss_rpn_loc", "class": "loss_cls", "box": "loss_box_reg",
             "mask": "loss_mask"}  # fmt: skip
    check_losses(ran.fixture, losses_on_recorded_proposals(ran), names)


def test_smoothness_of_the_rasterizer(ran):
    """The reference reports it among its losses; nothing is learnt from it."""
    from eachmask.models.instance.boundaryformer import Config

    recorded_smoothness = pytest.approx(ran.fixture.manifest["losses"]["loss_smooth"])
    assert Config().polygon_head.smoothness == ran.model.config.polygon_head.smoothness == recorded_smoothness
