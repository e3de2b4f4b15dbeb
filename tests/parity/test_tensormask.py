"""TensorMask against recorded outputs of Detectron2's project."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask.models.instance.tensormask import Raw, TensorMask, tensormask_r50_fpn
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.weights.from_detectron2 import tensormask as from_detectron2
from eachmask.weights.renaming import fill

SYSTEMS = recorded("detectron2_tensormask_r50")


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, TensorMask, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    model = tensormask_r50_fpn(
        num_classes=said["num_classes"],
        windows=tuple(said["mask_sizes"]),
        alpha=said["focal_alpha"],
        gamma=said["focal_gamma"],
        box_weights=tuple(said["bbox_reg_weights"]),
        mask_weight=said["mask_loss_weight"],
        positive_weight=said["positive_weight"],
        candidates=said["topk"],
        score_threshold=said["score_thr"],
        nms_threshold=said["nms"],
    ).eval()
    fill(model, from_detectron2.convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_raw_outputs(stem):
    fixture, model, raw = ran(stem)
    said = fixture.manifest["config"]
    assert list(raw.features.strides) == said["strides"]
    for level, anchors in enumerate(model.anchors(raw)):
        check_raw(fixture, f"neck.{level}", raw.features.maps[level])
        check_raw(fixture, f"cls.{level}", raw.logits[level])
        check_raw(fixture, f"box.{level}", raw.shifts[level])
        assert (anchors[: len(said["mask_sizes"]), 2] * 2).tolist() == said["anchor_sizes"][level]


@pytest.mark.parametrize("stem", SYSTEMS)
def test_natural_masks(stem):
    """Those of every window of every level, in the reference's order: mask values as channels."""
    fixture, model, raw = ran(stem)
    first = 0
    for level, features in enumerate(raw.mask_features):
        height, width = features.shape[-2:]
        for a, window in enumerate(model.config.windows):
            places = first + torch.arange(height * width) * len(model.config.windows) + a
            with torch.no_grad():
                masks = torch.cat([logits for _, logits in model.natural_masks(raw, 0, places)])
            layout = masks.flatten(1).T.reshape(1, -1, height, width)
            check_raw(fixture, f"mask.{level}.{window}", layout)
        first += height * width * len(model.config.windows)


@pytest.mark.parametrize("stem", SYSTEMS)
def test_detections(stem):
    fixture, model, raw = ran(stem)
    for name, case in fixture.manifest["detections"].items():
        (found,) = model.decode(raw._replace(sizes=(tuple(case["img_shape"]),)), DecodeOptions())
        check_detections(fixture, name, found.resize(case["ori_shape"]))


@pytest.mark.parametrize("stem", SYSTEMS)
def test_losses(stem):
    fixture, model, raw = ran(stem)
    target = fixture.target()
    truth = Instances(
        raw.sizes[0],
        torch.from_numpy(target["boxes"]),
        masks=RLE.from_bitmaps(target["masks"]),
        labels=torch.from_numpy(target["labels"]),
    )
    with torch.no_grad():
        losses = model.losses(raw, [truth])
    check_losses(fixture, losses, {"class": "loss_cls", "box": "loss_box_reg", "mask": "loss_mask"})
