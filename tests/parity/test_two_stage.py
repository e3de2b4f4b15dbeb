"""Two-stage models compute what MMDetection's and Detectron2's do: raw outputs, detections, losses as recorded."""

from __future__ import annotations

import importlib
import re
from typing import Any, NamedTuple

import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights
from torch import Tensor
from torch.nn import functional as F

from eachmask import models
from eachmask.models.detection.faster_rcnn import FasterRCNN
from eachmask.models.detection.rpn import Raw
from eachmask.ops.anchors import flatten_anchors
from eachmask.ops.match import UNMATCHED
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.weights.renaming import fill

MASK_RCNN = ("mmdet_mask_rcnn_r50", "detectron2_mask_rcnn_r50", "mmdet_ms_rcnn_r50")
CASCADE = ("mmdet_cascade_mask_rcnn_r50", "detectron2_cascade_mask_rcnn_r50")
VARIANTS = {
    "mmdet_mask_rcnn_r50_pafpn": "mask_rcnn_r50_pafpn",
    "mmdet_ms_rcnn_r50_fpn": "mask_scoring_rcnn_r50_fpn",
    "mmdet_cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn_r50_fpn_mmdet",
    "detectron2_cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn_r50_fpn_detectron2",
    "mmdet_mask_rcnn_r50_fpn": "mask_rcnn_r50_fpn_mmdet",
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


class Ran(NamedTuple):
    """One fixture's model and its answer to the fixture's input."""

    fixture: Any
    project: str
    model: FasterRCNN
    raw: Raw


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    """The fixture's model, filled and run once."""
    fixture = open_fixture(request.param)
    system, theirs = fixture.manifest["system"], fixture.manifest["config"]
    prefix = next(name for name in sorted(VARIANTS, key=len, reverse=True) if system.startswith(name))
    project = system.split("_")[0]
    every = re.search(r"RPN\.BATCH_SIZE_PER_IMAGE = (\d+)", fixture.manifest["loss_note"])
    config: dict[str, Any] = {
        "rpn_batch": int(every[1]) if every else 10**7,  # the samplers took everything
        "roi_batch": 10**7,
        "roi_positive": 1.0,
        "score_threshold": theirs["score_thr"],
        "nms_threshold": theirs["nms"],
        "max_detections": theirs["max_per_img"],
        "rpn_nms": theirs["rpn_nms"],
        "rpn_candidates": theirs.get("nms_pre", theirs.get("rpn_pre")),
        "proposals": theirs.get("rpn_max", theirs.get("rpn_post")),
    }
    if prefix.startswith("mmdet_ms"):
        config["free_scores"] = True  # the reference neither sorts nor bounds them
    with torch.device("meta"):  # no time is spent on initial values that are overwritten at once
        model = models.variant(VARIANTS[prefix])(num_classes=theirs["num_classes"], **config)
    model.to_empty(device="cpu")
    convert = importlib.import_module(f"eachmask.weights.from_{project}.two_stage").convert
    fill(model, convert(weights(fixture)))
    model.eval()
    with torch.inference_mode():
        return Ran(fixture, project, model, model(batch(fixture)))


def on(*systems: str) -> pytest.MarkDecorator:
    """Run a test on the fixtures of these systems, all tests of one fixture together."""
    return pytest.mark.parametrize("ran", recorded(*systems), indirect=True, scope="module")


def array(fixture: Any, name: str) -> Tensor:
    return torch.from_numpy(fixture.arrays[name]).float()


def check_same_first_stage(ran: Ran) -> None:
    """Pyramid, proposal network and its proposals."""
    fixture, raw = ran.fixture, ran.raw
    for i, level in enumerate(raw.features.maps):
        check_raw(fixture, f"neck.{i}" if ran.project == "mmdet" else f"neck.p{i + 2}", level)
        check_raw(fixture, f"rpn_cls.{i}", raw.objectness[i])
        check_raw(fixture, f"rpn_reg.{i}", raw.shifts[i])
    (ours,) = ran.model.propose(raw, ran.model.config.rpn_candidates, ran.model.config.proposals)
    theirs = array(fixture, "aux/proposals")
    assert ours.shape == theirs.shape
    # Two of nearly the same score may have changed places.
    distance = (ours[:, None] - theirs[None]).abs().amax(dim=2)
    assert distance.amin(dim=0).max() < 0.1 and distance.amin(dim=1).max() < 0.1


def every_mask(head: Any, rois: Tensor) -> Tensor:
    """The mask head's answer for all classes, where the model computes that of one."""
    return head.masks(F.relu(head.upsample(head.convs(rois))))


@on(*VARIANTS)
@torch.inference_mode()
def test_same_first_stage(ran):
    check_same_first_stage(ran)


@on(*MASK_RCNN)
@torch.inference_mode()
def test_same_heads(ran):
    fixture, _, model, raw = ran
    rois = [array(fixture, "aux/rois")]
    pooled = model.pool(raw.features, rois, model.config.roi_size)
    check_raw(fixture, "roi_feats", pooled)
    logits, shifts = model.run_box_head(raw.features, rois)
    check_raw(fixture, "roi_cls", logits)
    check_raw(fixture, "roi_reg", shifts.flatten(1))
    pooled = model.pool(raw.features, rois, model.config.mask_roi_size)
    check_raw(fixture, "roi_mask", every_mask(model.mask_head, pooled))


@on("mmdet_ms_rcnn_r50")
@torch.inference_mode()
def test_same_mask_scores(ran):
    fixture, _, model, raw = ran
    rois = [array(fixture, "aux/rois")]
    labels = torch.arange(len(rois[0])) % model.num_classes
    pooled = model.pool(raw.features, rois, model.config.mask_roi_size)
    check_raw(fixture, "mask_iou", model.mask_iou_head(pooled, model.mask_head(pooled, labels)))


@on(*CASCADE)
@torch.inference_mode()
def test_same_heads_of_every_stage(ran):
    fixture, _, model, raw = ran
    rois = [array(fixture, "aux/rois")]
    pooled = model.pool(raw.features, rois, model.config.mask_roi_size)
    for stage in range(len(model.box_heads)):
        logits, shifts = model.run_stage(stage, raw.features, rois)
        check_raw(fixture, f"roi_cls.s{stage}", logits)
        check_raw(fixture, f"roi_reg.s{stage}", shifts.flatten(1))
    for stage, head in enumerate(model.mask_heads):
        name = f"roi_mask.s{stage}" if model.config.mask_every_stage else "roi_mask"
        check_raw(fixture, name, every_mask(head, pooled))


@pytest.mark.parametrize("case", ["plain", "padded_rescaled"])
@on(*VARIANTS)
@torch.inference_mode()
def test_same_detections(ran, case):
    fixture, _, model, raw = ran
    facts = fixture.manifest["detections"][case]
    (found,) = model.decode(raw._replace(sizes=(tuple(facts["img_shape"]),)), DecodeOptions())
    check_detections(fixture, case, found.resize(tuple(facts["ori_shape"])))


def losses(ran: Ran) -> dict[str, Tensor]:
    """Ours for the fixture's target and proposals."""
    target = ran.fixture.target()
    masks = RLE.from_bitmaps(target["masks"].astype(bool))
    truth = Instances(
        image_size=masks.size,
        boxes=torch.from_numpy(target["boxes"]).float(),
        labels=torch.from_numpy(target["labels"]).long(),
        masks=masks,
    )
    rois = array(ran.fixture, "aux/train_rois")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ran.model, "propose", lambda *_: [rois])
        found = ran.model.losses(ran.raw, [truth])
    if ran.project == "mmdet":
        found["rpn_objectness"] += of_other_classes(ran, truth)
    return found


def of_other_classes(ran: Ran, truth: Instances) -> Tensor:
    """What MMDetection's recorded objectness loss has too much.

    Its detector tells the proposal network that every object is of class 0. The recording called the proposal network
    itself, with the true classes, and there any other class is background: the cross-entropy of those positive anchors
    has the wrong sign, which adds exactly their logits.
    """
    model, raw = ran.model, ran.raw
    matched = model.rpn.assign(torch.cat(model.rpn.anchors(raw)), truth, raw.sizes[0])
    logits = torch.cat([flatten_anchors(level, 1) for level in raw.objectness], 1).flatten()
    of_other = (matched >= 0) & (truth.labels[matched.clamp(min=0)] > 0)
    return logits[of_other].sum() / (matched >= UNMATCHED).sum()


@on(*MASK_RCNN)
@torch.inference_mode()
def test_same_losses(ran):
    scores = {"mask_iou": "loss_mask_iou"} if "loss_mask_iou" in ran.fixture.manifest["losses"] else {}
    check_losses(ran.fixture, losses(ran), RPN_LOSSES[ran.project] | HEAD_LOSSES[ran.project] | scores)


@on(*CASCADE)
@torch.inference_mode()
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
