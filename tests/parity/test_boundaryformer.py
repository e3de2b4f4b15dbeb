"""BoundaryFormer computes what the authors' implementation computes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights
from torch import Tensor

from eachmask.models.instance.boundaryformer import BoundaryFormer, boundaryformer_r50_fpn, vertex_encoding
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.weights.from_detectron2.boundaryformer import convert
from eachmask.weights.renaming import fill


@dataclass
class Case:
    """A fixture, our model with its weights, and what it says of the fixture's input."""

    fixture: Any
    model: BoundaryFormer
    raw: Any

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.fixture.arrays[name])


@pytest.fixture(scope="module", params=recorded("boundaryformer"))
def case(request: pytest.FixtureRequest) -> Case:
    fixture = open_fixture(request.param)
    c = fixture.manifest["config"]
    every = re.search(r"RPN losses / (\d+)", fixture.manifest["loss_note"])
    torch.manual_seed(0)
    model = boundaryformer_r50_fpn(
        c["num_classes"],
        first_points=c["base_points"],
        num_points=c["num_points"],
        attention_heads=c["heads"],
        samples=c["dec_points"],
        feedforward=c["feedforward"],
        polygon_levels=len(c["levels"]),
        raster_size=c["raster_resolution"],
        smoothness=c["inv_smoothness"],
        rpn_batch=int(every[1]) if every else 10**7,  # the samplers took everything
        roi_batch=10**7,
        roi_positive=1.0,
    ).eval()
    fill(model, convert(weights(fixture)))
    with torch.inference_mode():
        return Case(fixture, model, model(batch(fixture)))


@torch.inference_mode()
def test_pyramid(case):
    for i, level in enumerate(case.raw.features.maps):
        check_raw(case.fixture, f"neck.p{i + 2}", level)


@torch.inference_mode()
def test_box_head(case):
    logits, shifts = case.model.run_box_head(case.raw.features, [case.array("aux/rois")])
    check_raw(case.fixture, "roi_cls", logits)
    check_raw(case.fixture, "roi_reg", shifts.flatten(1))


def test_numbers_of_vertices(case):
    expected = case.array("aux/point_embedding")
    assert torch.allclose(vertex_encoding(*expected.shape), expected, atol=1e-5)


@torch.inference_mode()
def test_polygons(case):
    (layers,) = case.model.polygons(case.raw, [case.array("aux/rois")])
    check_raw(case.fixture, "polygons", layers[-1])


@pytest.mark.parametrize("name", ["plain", "padded_rescaled"])
@torch.inference_mode()
def test_detections(case, name):
    info = case.fixture.manifest["detections"][name]
    raw = case.raw._replace(sizes=(tuple(info["img_shape"]),))
    (found,) = case.model.decode(raw, DecodeOptions())
    check_detections(case.fixture, name, found.resize(tuple(info["ori_shape"])))


def test_losses(case, monkeypatch):
    target = case.fixture.target()
    truth = Instances(
        image_size=target["masks"].shape[1:],
        boxes=torch.from_numpy(target["boxes"]),
        labels=torch.from_numpy(target["labels"]).long(),
        masks=RLE.from_bitmaps(target["masks"]),
    )
    monkeypatch.setattr(case.model, "propose", lambda *_: [case.array("aux/train_rois")])
    with torch.no_grad():
        losses = case.model.losses(case.raw, [truth])
    names = {"rpn_objectness": "loss_rpn_cls", "rpn_box": "loss_rpn_loc", "class": "loss_cls", "box": "loss_box_reg"}
    check_losses(case.fixture, losses, names | {"mask": "loss_mask"})
