"""CondInst against recorded outputs of MMDetection and AdelaiDet."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask.models.instance.condinst import CondInst, Raw, condinst_r50_fpn, condinst_r50_fpn_adelaidet
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances
from eachmask.weights.from_detectron2 import condinst as from_detectron2
from eachmask.weights.from_mmdet import condinst as from_mmdet
from eachmask.weights.renaming import fill

MMDET, ADELAIDET = recorded("mmdet_condinst_r50"), recorded("adelaidet_condinst_r50")
SYSTEMS = [*MMDET, *ADELAIDET]


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, CondInst, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    ours = fixture.manifest["system"].startswith("mmdet")
    config = {"nms_threshold": said["nms"], "score_threshold": said["score_thr" if ours else "pre_nms_thresh"]}
    if ours:
        config |= {"max_detections": said["max_per_img"], "candidates": said["nms_pre"]}
    else:
        config |= {
            "ranges": tuple(said["sizes_of_interest"]),
            "max_detections": said["post_nms_topk"],
            "threshold_on": "product" if said["thresh_with_ctr"] else "class",
        }
    build, converter = (condinst_r50_fpn, from_mmdet) if ours else (condinst_r50_fpn_adelaidet, from_detectron2)
    model = build(num_classes=said["num_classes"], **config).eval()
    fill(model, converter.convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_raw_outputs(stem):
    fixture, model, raw = ran(stem)
    found = raw.detection
    said = fixture.manifest
    assert list(found.features.strides) == said["config"]["strides"]
    in_strides = "adelaidet" in said["system"]
    for i, level in enumerate(found.features.maps):
        for name in (f"neck.{i}", f"neck.p{i + 3}"):
            if name in said["raw"]:
                check_raw(fixture, name, level)
        check_raw(fixture, f"cls.{i}", found.logits[i])
        check_raw(fixture, f"box.{i}", found.distances[i] / (found.features.strides[i] if in_strides else 1))
        check_raw(fixture, f"centerness.{i}", found.centerness[i])
        check_raw(fixture, f"params.{i}", raw.kernels[i])
    check_raw(fixture, "mask_feat", raw.mask_features)


@pytest.mark.parametrize("stem", MMDET)
def test_drawn_masks(stem):
    fixture, model, raw = ran(stem)
    level = raw.kernels[1]
    rows, columns = level.shape[-2:]
    cells = torch.from_numpy(np.random.RandomState(9).randint(0, rows * columns, 8))
    places = model.places(raw, cells + raw.kernels[0][0, 0].numel())
    with torch.no_grad():
        check_raw(fixture, "dynamic_mask", model.draw(raw, 0, level[0].flatten(1).T[cells], places))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_detections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        valid = tuple(case["img_shape"])
        if "zero-padded" in case["meaning"] and valid != raw.detection.sizes[0]:
            tensor = batch(fixture).tensor.clone()
            tensor[..., valid[0] :, :], tensor[..., valid[1] :] = 0, 0
            with torch.no_grad():
                seen = model(ImageBatch(tensor, (valid,)))
        else:
            seen = raw._replace(detection=raw.detection._replace(sizes=(valid,)))
        (found,) = model.decode(seen, DecodeOptions())
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
    names = {"class": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness", "mask": "loss_mask"}
    if "loss_cls" not in fixture.manifest["losses"]:
        names |= {"class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr"}
    with torch.no_grad():
        check_losses(fixture, model.losses(raw, [truth]), names)
