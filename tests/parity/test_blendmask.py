"""BlendMask against recorded outputs of AdelaiDet."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask.models.instance.blendmask import BlendMask, Raw, blend, blendmask_r50_fpn
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances
from eachmask.weights.from_detectron2 import blendmask as from_detectron2
from eachmask.weights.renaming import fill

SYSTEMS = recorded("adelaidet_blendmask_r50")


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, BlendMask, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    config = {
        "ranges": tuple(said["sizes_of_interest"]),
        "threshold_on": "product" if said["thresh_with_ctr"] else "class",
        "scales": said["use_scale"],
        "score_threshold": said["pre_nms_thresh"],
        "candidates": said["pre_nms_topk"],
        "nms_threshold": said["nms"],
        "max_detections": said["post_nms_topk"],
        "bases": said["num_bases"],
        "attention_size": said["attn_size"],
        "base_size": said["bottom_resolution"],
    }
    model = blendmask_r50_fpn(num_classes=said["num_classes"], **config).eval()
    fill(model, from_detectron2.convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_raw_outputs(stem):
    fixture, model, raw = ran(stem)
    found = raw.detection
    assert list(found.features.strides) == fixture.manifest["config"]["strides"]
    for i, (level, stride) in enumerate(zip(found.features.maps, found.features.strides, strict=True)):
        check_raw(fixture, f"neck.p{i + 3}", level)
        check_raw(fixture, f"cls.{i}", found.logits[i])
        check_raw(fixture, f"box.{i}", found.distances[i] / stride)
        check_raw(fixture, f"centerness.{i}", found.centerness[i])
        check_raw(fixture, f"attention.{i}", raw.attention[i])
    check_raw(fixture, "bases", raw.bases)


@pytest.mark.parametrize("stem", SYSTEMS)
def test_blending(stem):
    fixture, model, raw = ran(stem)
    rois = torch.from_numpy(fixture.arrays["aux/rois"])
    c = model.config
    drawn = np.random.RandomState(4).standard_normal((len(rois), c.bases * c.attention_size**2)).astype(np.float32)
    check_raw(fixture, "blend", blend(model.cut(raw.bases, [rois]), model.maps(torch.from_numpy(drawn))))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_detections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        valid = tuple(case["img_shape"])
        tensor = batch(fixture).tensor.clone()
        if valid != raw.detection.sizes[0]:  # their padding is 0
            tensor[..., valid[0] :, :], tensor[..., valid[1] :] = 0, 0
            with torch.no_grad():
                raw = model(ImageBatch(tensor, (valid,)))
        (found,) = model.decode(raw, DecodeOptions())
        check_detections(fixture, name, found.resize(case["ori_shape"]))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_losses(stem):
    fixture, model, raw = ran(stem)
    target = fixture.target()
    truth = Instances(
        raw.detection.sizes[0],
        torch.from_numpy(target["boxes"]),
        masks=RLE.from_bitmaps(target["masks"]),
        labels=torch.from_numpy(target["labels"]),
    )
    names = {"class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr", "mask": "loss_mask",
             "semantic": "loss_basis_sem"}  # fmt: skip
    with torch.no_grad():
        check_losses(fixture, model.losses(raw, [truth]), names)
