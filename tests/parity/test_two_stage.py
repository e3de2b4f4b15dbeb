"""Two-stage models compute what MMDetection's and Detectron2's do: raw outputs, detections, losses as recorded."""

from __future__ import annotations

import importlib
from typing import Any

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
    losses_on_recorded_proposals,
    on,
    open_fixture,
    project_of,
    run,
    two_stage_settings,
)
from parity.swin import swin_settings
from torch import Tensor
from torch.nn import functional as F

from eachmask import models
from eachmask.ops.anchors import flatten_anchors
from eachmask.ops.match import UNMATCHED

MASK_RCNN = ("mmdet_mask_rcnn_r50", "mmdet_mask_rcnn_swin", "detectron2_mask_rcnn_r50", "mmdet_ms_rcnn_r50")
CASCADE = ("mmdet_cascade_mask_rcnn_r50", "detectron2_cascade_mask_rcnn_r50")
VARIANTS = {
    "mmdet_mask_rcnn_r50_pafpn": "mask_rcnn_r50_pafpn",
    "mmdet_ms_rcnn_r50_fpn": "mask_scoring_rcnn_r50_fpn",
    "mmdet_cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn_r50_fpn_mmdet",
    "detectron2_cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn_r50_fpn_detectron2",
    "mmdet_mask_rcnn_r50_fpn": "mask_rcnn_r50_fpn_mmdet",
    "mmdet_mask_rcnn_swin_t_fpn": "mask_rcnn_swin_t_fpn_mmdet",
    "detectron2_mask_rcnn_r50_fpn": "mask_rcnn_r50_fpn_detectron2",
}
RPN_LOSSES = {
    "mmdet": {"rpn_objectness": "loss_rpn_cls", "rpn_box": "loss_rpn_bbox"},
    "detectron2": {"rpn_objectness": "loss_rpn_cls", "rpn_box": "loss_rpn_loc"},
}
HEAD_LOSSES = {
    "mmdet": {"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask"},
    "detectron2": {"class": "loss_cls", "box": "loss_box_reg", "mask": "loss_mask"},
}


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    system = fixture.manifest["system"]
    prefix = next(name for name in sorted(VARIANTS, key=len, reverse=True) if system.startswith(name))
    config = two_stage_settings(fixture)
    if prefix.startswith("mmdet_ms"):
        config["free_scores"] = True  # the reference neither sorts nor bounds them
    if "window" in fixture.manifest["config"]:
        config["swin"] = swin_settings(fixture)
    converter = importlib.import_module(f"eachmask.weights.from_{project_of(fixture)}.two_stage")
    return run(fixture, models.variant(VARIANTS[prefix]), converter.convert, config)


def every_mask(head: Any, rois: Tensor) -> Tensor:
    """The mask head's answer for all classes, where the model computes that of one."""
    return head.masks(F.relu(head.upsample(head.convs(rois))))


@on(*VARIANTS)
def test_same_first_stage(ran):
    """Pyramid, proposal network and its proposals."""
    check_pyramid(ran.fixture, ran.raw.features.maps)
    check_levels(ran.fixture, rpn_cls=ran.raw.objectness, rpn_reg=ran.raw.deltas)
    if "aux/proposals" not in ran.fixture.arrays:
        return
    (ours,) = ran.model.propose(ran.raw, ran.model.config.rpn.pre_nms_top_n, ran.model.config.rpn.post_nms_top_n)
    theirs = ran.array("aux/proposals")
    assert ours.shape == theirs.shape
    # Two of nearly the same score may have changed places.
    distance = (ours[:, None] - theirs[None]).abs().amax(dim=2)
    assert distance.amin(dim=0).max() < 0.1 and distance.amin(dim=1).max() < 0.1


@on(*MASK_RCNN)
def test_same_heads(ran):
    fixture, model, raw = ran
    rois = [ran.array("aux/rois")]
    check_raw(fixture, "roi_feats", model.pool(raw.features, rois, model.config.box_head.roi_size))
    logits, deltas = model.run_box_head(raw.features, rois)
    check_raw(fixture, "roi_cls", logits)
    check_raw(fixture, "roi_reg", deltas.flatten(1))
    pooled = model.pool(raw.features, rois, model.config.mask_head.roi_size)
    check_raw(fixture, "roi_mask", every_mask(model.mask_head, pooled))


@on("mmdet_ms_rcnn_r50")
def test_same_mask_scores(ran):
    fixture, model, raw = ran
    rois = [ran.array("aux/rois")]
    labels = torch.arange(len(rois[0])) % model.num_classes
    pooled = model.pool(raw.features, rois, model.config.mask_head.roi_size)
    check_raw(fixture, "mask_iou", model.mask_iou_head(pooled, model.mask_head(pooled, labels)))


@on(*CASCADE)
def test_same_heads_of_every_stage(ran):
    fixture, model, raw = ran
    rois = [ran.array("aux/rois")]
    pooled = model.pool(raw.features, rois, model.config.mask_head.roi_size)
    for stage in range(len(model.box_heads)):
        logits, deltas = model.run_stage(stage, raw.features, rois)
        check_raw(fixture, f"roi_cls.s{stage}", logits)
        check_raw(fixture, f"roi_reg.s{stage}", deltas.flatten(1))
    for stage, head in enumerate(model.mask_heads):
        name = f"roi_mask.s{stage}" if model.config.mask_every_stage else "roi_mask"
        check_raw(fixture, name, every_mask(head, pooled))


@on("mmdet_cascade_mask_rcnn_r50")
def test_stages_refine_boxes_and_average_their_classes(ran):
    """The recorded regions through all stages: what each is given, and what is made of the three answers."""
    fixture, model, raw = ran
    rois, logits = [ran.array("aux/rois")], []
    for stage in range(len(model.box_heads)):
        if stage == len(model.box_heads) - 1:
            check_raw(fixture, "refined_rois", rois[0])
        of_stage, deltas = model.run_stage(stage, raw.features, rois)
        logits.append(of_stage)
        rois = model.refined(stage, rois, model.of_class(of_stage, deltas), raw.sizes)
    check_raw(fixture, "last_reg", deltas.flatten(1))
    check_raw(fixture, "mean_cls", torch.stack(logits).mean(dim=0))
    assert torch.allclose(model.averaged(logits), torch.stack(logits).mean(dim=0).softmax(dim=1), atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@on(*VARIANTS)
def test_same_detections(ran, case):
    check_decoded(ran, case)


def losses(ran: Ran) -> dict[str, Tensor]:
    """Ours for the fixture's target and proposals."""
    found = losses_on_recorded_proposals(ran)
    if ran.project == "mmdet":
        found["rpn_objectness"] += of_other_classes(ran)
    return found


def of_other_classes(ran: Ran) -> Tensor:
    """What MMDetection's recorded objectness loss has too much.

    Its detector tells the proposal network that every object is of class 0. The recording called the proposal network
    itself, with the true classes, and there any other class is background: the cross-entropy of those positive anchors
    has the wrong sign, which adds exactly their logits.
    """
    _, model, raw = ran
    gt = ran.target()
    matched = model.rpn.assign(torch.cat(model.rpn.anchors(raw)), gt, raw.sizes[0])
    logits = torch.cat([flatten_anchors(level, 1) for level in raw.objectness], 1).flatten()
    of_other = (matched >= 0) & (gt.labels[matched.clamp(min=0)] > 0)
    return logits[of_other].sum() / (matched >= UNMATCHED).sum()


@on(*MASK_RCNN)
def test_same_losses(ran):
    scores = {"mask_iou": "loss_mask_iou"} if "loss_mask_iou" in ran.fixture.manifest["losses"] else {}
    check_losses(ran.fixture, losses(ran), RPN_LOSSES[ran.project] | HEAD_LOSSES[ran.project] | scores)


@on(*CASCADE)
def test_same_losses_of_every_stage(ran):
    names = dict(RPN_LOSSES[ran.project])
    for stage in range(len(ran.model.box_heads)):
        for ours, theirs in HEAD_LOSSES[ran.project].items():
            if ran.project == "mmdet":
                names[f"{ours}_{stage}"] = f"s{stage}.{theirs}"
            elif ours != "mask":
                names[f"{ours}_{stage}"] = f"{theirs}_stage{stage}"
    if ran.project == "detectron2":
        names["mask_0"] = "loss_mask"
    found = losses(ran)
    assert set(found) == set(names)
    check_losses(ran.fixture, found, names)
