"""CenterMask against recorded outputs of the authors' second version."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask.models.detection.fcos import Raw
from eachmask.models.instance.centermask import CenterMask, centermask_lite_v39_fpn, centermask_r50_fpn
from eachmask.structures import DecodeOptions, Instances, Polygons
from eachmask.weights.from_detectron2 import centermask as from_detectron2
from eachmask.weights.renaming import fill

SYSTEMS = recorded("centermask2")


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, CenterMask, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    config = {
        "ranges": tuple(said["sizes_of_interest"]),
        "threshold_on": "product" if said["thresh_with_ctr"] else "class",
        "radius": said["pos_radius"] if said["center_sample"] else None,
        "score_threshold": said["pre_nms_thresh"],
        "nms_threshold": said["nms"],
        "max_detections": said["post_nms_topk"],
        "iou_weight": said["maskiou_loss_weight"],
    }
    state = weights(fixture)
    if "lite" in fixture.manifest["system"]:
        towers = [name for name in state if "cls_tower" in name and name.endswith("weight")]
        model = centermask_lite_v39_fpn(said["num_classes"], **config, depth=len(towers) // 2)
    else:
        model = centermask_r50_fpn(said["num_classes"], **config)
    fill(model.eval(), from_detectron2.convert(state))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_raw_outputs(stem):
    fixture, model, raw = ran(stem)
    assert list(raw.features.strides) == fixture.manifest["config"]["strides"]
    for i, (level, stride) in enumerate(zip(raw.features.maps, raw.features.strides, strict=True)):
        check_raw(fixture, f"neck.p{i + 3}", level)
        check_raw(fixture, f"cls.{i}", raw.logits[i])
        check_raw(fixture, f"box.{i}", raw.distances[i] / stride)
        check_raw(fixture, f"centerness.{i}", raw.centerness[i])


@pytest.mark.parametrize("stem", SYSTEMS)
@torch.no_grad()
def test_heads_of_rois(stem):
    fixture, model, raw = ran(stem)
    boxes = torch.from_numpy(fixture.arrays["aux/rois"])
    rois = model.pool(raw.features, [boxes], raw.sizes)
    check_raw(fixture, "roi_feats", rois)
    check_raw(fixture, "maskiou_input_feats", rois)
    head = model.mask_head
    masks = head.masks(head.upsample(head.convs(rois)).relu())
    check_raw(fixture, "roi_mask", masks)
    labels = torch.arange(len(boxes)) % model.num_classes
    logits = head(rois, labels)
    assert torch.allclose(logits, masks[torch.arange(len(boxes)), labels], atol=1e-4)
    check_raw(fixture, "maskiou", model.mask_iou_head(rois, logits))


@pytest.mark.parametrize("stem", SYSTEMS)
@torch.no_grad()
def test_detections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        seen = raw._replace(sizes=(tuple(case["img_shape"]),))
        ((found, scores),) = model.detect(seen, DecodeOptions())
        check_detections(fixture, name, found.resize(case["ori_shape"]))
        reference = fixture.detections(name)["mask_scores"]
        assert np.abs(np.sort(scores.numpy()) - np.sort(reference)).max() < 1e-3
        (sorted_ones,) = model.decode(seen, DecodeOptions())
        assert np.allclose(sorted_ones.scores.numpy(), -np.sort(-reference), atol=1e-3)


@pytest.mark.parametrize("stem", SYSTEMS)
@torch.no_grad()
def test_losses(stem):
    fixture, model, raw = ran(stem)
    target = fixture.target()
    rings = fixture.arrays["aux/polygons"].reshape(len(target["boxes"]), -1, 2).astype(np.float64)
    truth = Instances(
        raw.sizes[0],
        torch.from_numpy(target["boxes"]),
        masks=Polygons([[ring] for ring in rings], (), raw.sizes[0]),
        labels=torch.from_numpy(target["labels"]),
    )
    names = {"class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr"}
    check_losses(fixture, model.losses(raw, [truth]), names)
    rois = torch.from_numpy(fixture.arrays["aux/train_rois"])
    check_losses(fixture, model.roi_losses(raw, [rois], [truth]), {"mask": "loss_mask", "mask_iou": "loss_maskiou"})
