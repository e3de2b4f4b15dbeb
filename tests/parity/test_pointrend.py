"""PointRend computes what MMDetection's and Detectron2's compute."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights
from torch import Tensor

from eachmask.models.instance.pointrend import (
    PointRend,
    pointrend_r50_fpn,
    pointrend_r50_fpn_mmdet,
    read_grid,
    read_points,
)
from eachmask.ops import points as point_ops
from eachmask.ops.points import point_sample
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.weights.from_detectron2 import point_rend as from_detectron2
from eachmask.weights.from_mmdet import point_rend as from_mmdet
from eachmask.weights.renaming import fill

STEMS = recorded("mmdet_point_rend", "detectron2_point_rend")


@dataclass
class Case:
    """A fixture, our model with its weights, and what it says of the fixture's input."""

    fixture: Any
    model: PointRend
    raw: Any
    mmdet: bool

    @property
    def rois(self) -> Tensor:
        return torch.from_numpy(self.fixture.arrays["aux/rois"])


@pytest.fixture(scope="module", params=STEMS)
def case(request: pytest.FixtureRequest) -> Case:
    fixture = open_fixture(request.param)
    c = fixture.manifest["config"]
    mmdet = fixture.manifest["system"].startswith("mmdet")
    every = re.search(r"RPN\.BATCH_SIZE_PER_IMAGE = (\d+)", fixture.manifest["loss_note"])
    with torch.device("meta"):  # no time is spent on initial values that are overwritten at once
        model = (pointrend_r50_fpn_mmdet if mmdet else pointrend_r50_fpn)(
            c["num_classes"],
            mask_size=c["final_mask_size"],
            coarse_size=c["mask_size"] if mmdet else c["coarse_size"],
            subdivision_points=c["subdivision_num_points"],
            train_points=c["train_points"],
            oversample=c["oversample_ratio"],
            importance=c["importance_sample_ratio"],
            score_threshold=c["score_thr"],
            nms_threshold=c["nms"],
            max_detections=c["max_per_img"],
            rpn_nms=c["rpn_nms"],
            rpn_candidates=c.get("nms_pre", c.get("rpn_pre")),
            proposals=c.get("rpn_max", c.get("rpn_post")),
            rpn_batch=int(every[1]) if every else 10**7,  # the samplers took everything
            roi_batch=10**7,
            roi_positive=1.0,
        )
    model.to_empty(device="cpu").eval()
    fill(model, (from_mmdet if mmdet else from_detectron2).convert(weights(fixture)))
    with torch.inference_mode():
        raw = model(batch(fixture))
    return Case(fixture, model, raw, mmdet)


@torch.inference_mode()
def test_pyramid_and_proposal_network(case):
    for i, level in enumerate(case.raw.features.maps):
        check_raw(case.fixture, f"neck.{i}" if case.mmdet else f"neck.p{i + 2}", level)
    for i, (logits, shifts) in enumerate(zip(case.raw.objectness, case.raw.shifts, strict=True)):
        check_raw(case.fixture, f"rpn_cls.{i}", logits)
        check_raw(case.fixture, f"rpn_reg.{i}", shifts)


@torch.inference_mode()
def test_box_head(case):
    logits, shifts = case.model.run_box_head(case.raw.features, [case.rois])
    check_raw(case.fixture, "roi_cls", logits)
    check_raw(case.fixture, "roi_reg", shifts.flatten(1))


@torch.inference_mode()
def test_coarse_and_point_heads(case):
    model, features, boxes = case.model, case.raw.features, [case.rois[::4]]
    count = len(boxes[0])
    coarse = model.represent(features, boxes)
    points = torch.from_numpy(np.random.RandomState(8).random_sample((count, 64, 2)).astype(np.float32))
    fine, read = read_points(features, boxes, points), point_sample(coarse, points)
    check_raw(case.fixture, "mask_feats", read_grid(features, boxes, model.config.region_size))
    check_raw(case.fixture, "coarse_mask", coarse)
    check_raw(case.fixture, "point_fine_feats", fine)
    if "point_coarse_feats" in case.fixture.manifest["raw"]:
        check_raw(case.fixture, "point_coarse_feats", read)
    check_raw(case.fixture, "point_logits", model.point_head.classes(model.point_head.hidden(fine, read)))


@torch.inference_mode()
def test_rendered_masks(case):
    boxes = case.rois[::4]
    mask = case.model.render(case.raw.features, [boxes], torch.arange(len(boxes)) % case.model.num_classes)
    mask = mask if case.mmdet else mask.sigmoid()[:, None]
    info, expected = case.fixture.raw("refined_mask")
    assert list(mask.shape) == info["shape"]
    found = mask.flatten()[sample_indices(case.fixture, mask.numel())].numpy()
    # Where two cells are equally undecided, either may be asked anew.
    assert np.mean(np.abs(found - expected) / info["std"] < 1e-3) >= 0.995


def sample_indices(fixture: Any, numel: int) -> np.ndarray:
    from parity.recorded import deterministic

    return deterministic().sample_indices(numel)


@pytest.mark.parametrize("name", ["plain", "padded_rescaled"])
@torch.inference_mode()
def test_detections(case, name):
    info = case.fixture.manifest["detections"][name]
    raw = case.raw._replace(sizes=(tuple(info["img_shape"]),))
    (found,) = case.model.decode(raw, DecodeOptions())
    check_detections(case.fixture, name, found.resize(tuple(info["ori_shape"])))


def test_losses(case, monkeypatch):
    fixture, model = case.fixture, case.model
    target = fixture.target()
    size = target["masks"].shape[1:]
    truth = Instances(
        image_size=size,
        boxes=torch.from_numpy(target["boxes"]),
        labels=torch.from_numpy(target["labels"]).long(),
        masks=RLE.from_bitmaps(target["masks"]),
    )
    proposals = torch.from_numpy(fixture.arrays["aux/train_rois"])
    monkeypatch.setattr(model, "propose", lambda *_: [proposals])
    monkeypatch.setattr(point_ops.torch, "rand", recorded_draws(case))
    with torch.no_grad():
        losses = model.losses(case.raw, [truth])
    names = {"rpn_objectness": "loss_rpn_cls", "class": "loss_cls", "mask": "loss_mask"}
    if case.mmdet:
        names |= {"rpn_box": "loss_rpn_bbox", "box": "loss_bbox", "point": "loss_point"}
    else:
        names |= {"rpn_box": "loss_rpn_loc", "box": "loss_box_reg", "point": "loss_mask_point"}
    check_losses(fixture, losses, names)


def recorded_draws(case: Case) -> Callable[..., Tensor]:
    """The reference's random numbers; MMDetection puts true boxes before the proposals, we put them behind."""
    generator = np.random.RandomState(7)
    shapes = case.fixture.manifest["aux"]["uniform_draws"]["shapes"]
    draws = [torch.from_numpy(generator.random_sample(tuple(shape)).astype(np.float32)) for shape in shapes]
    if case.mmdet:
        num_true = len(case.fixture.target()["boxes"])
        draws = [draw.roll(-num_true, 0) for draw in draws]
    remaining = iter(draws)

    def rand(*size: int, **_: Any) -> Tensor:
        draw = next(remaining)
        assert draw.shape == size
        return draw

    return rand
