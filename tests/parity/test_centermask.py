"""CenterMask against recorded outputs of the authors' second version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from parity.recorded import (
    CASES,
    Ran,
    check_detections,
    check_levels,
    check_losses,
    check_pyramid,
    check_raw,
    in_strides,
    open_fixture,
    recorded,
    run,
)

from eachmask.models.instance.centermask import Config, centermask_lite_v39_fpn, centermask_r50_fpn
from eachmask.structures import DecodeOptions, Polygons
from eachmask.weights.from_detectron2 import centermask as from_detectron2


@pytest.fixture(scope="module", params=recorded("centermask2"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    said = fixture.manifest["config"]
    config = {
        "assign": {
            "ranges": tuple(said["sizes_of_interest"]),
            "radius": said["pos_radius"] if said["center_sample"] else None,
        },
        "score_threshold": said["pre_nms_thresh"],
        "nms_threshold": said["nms"],
        "max_detections": said["post_nms_topk"],
        "mask_iou_head": {"loss_weight": said["maskiou_loss_weight"]},
    }
    assert Config().select.threshold_on == ("product" if said["thresh_with_ctr"] else "class")
    variant = centermask_r50_fpn
    if "lite" in fixture.manifest["system"]:
        towers = [name for name in fixture.weights() if "cls_tower" in name and name.endswith("weight")]
        variant, config["head"] = centermask_lite_v39_fpn, {"depth": len(towers) // 2}
    return run(fixture, variant, from_detectron2.convert, config)


def test_raw_outputs(ran):
    raw = ran.raw
    assert list(raw.features.strides) == ran.said["strides"]
    check_pyramid(ran.fixture, raw.features.maps)
    check_levels(ran.fixture, cls=raw.logits, box=in_strides(raw), centerness=raw.centerness)


def test_heads_of_rois(ran):
    fixture, model, raw = ran
    boxes = ran.array("aux/rois")
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


@pytest.mark.parametrize("case", CASES)
def test_detections(ran, case):
    seen = ran.seen(case)
    selected, (scores,) = ran.model.paint(seen, ran.model.keep(seen, DecodeOptions()), DecodeOptions())
    (found,) = ran.model.pack(selected, DecodeOptions())
    check_detections(ran.fixture, case, found)
    reference = ran.fixture.detections(case)["mask_scores"]
    assert np.abs(np.sort(scores.numpy()) - np.sort(reference)).max() < 1e-3
    (sorted_ones,) = ran.model.decode(seen, DecodeOptions())
    assert np.allclose(sorted_ones.scores.numpy(), -np.sort(-reference), atol=1e-3)


def test_losses(ran):
    target = ran.target()
    rings = ran.fixture.arrays["aux/polygons"].reshape(len(target), -1, 2).astype(np.float64)
    target = replace(target, masks=Polygons([[ring] for ring in rings], (), target.image_size))
    names = {"class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr"}
    check_losses(ran.fixture, ran.model.losses(ran.raw, [target]), names)
    of_rois = ran.model.roi_losses(ran.raw, [ran.array("aux/train_rois")], [target])
    check_losses(ran.fixture, of_rois, {"mask": "loss_mask", "mask_iou": "loss_maskiou"})
