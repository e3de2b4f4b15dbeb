"""SOLO and its decoupled forms against recorded outputs of MMDetection and of the authors' code."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pytest
import torch
from parity.recorded import batch, check_detections, check_losses, check_raw, open_fixture, recorded, weights

from eachmask import models
from eachmask.models.instance.solo import SOLO, Raw
from eachmask.structures import RLE, DecodeOptions, Instances
from eachmask.weights import from_solo
from eachmask.weights.from_mmdet import solo as from_mmdet
from eachmask.weights.renaming import fill

STEMS = recorded("mmdet_solo_", "mmdet_decoupled_solo_", "wxinlong_solo_", "wxinlong_decoupled_solo_")
LOSSES = {"mmdet": {"class": "loss_cls", "mask": "loss_mask"}, "wxinlong": {"class": "loss_cate", "mask": "loss_ins"}}


def config_of(said: dict[str, Any], project: str) -> dict[str, Any]:
    """Our names of the recorded settings."""
    return {
        "grids": tuple(said["num_grids"]),
        "scale_ranges": tuple(tuple(pair) for pair in said["scale_ranges"]),
        "centre_share": said["pos_scale" if project == "mmdet" else "pos_sigma"],
        "mask_mean": "cells" if project == "mmdet" else "pairs",
        "candidate_threshold": said["score_thr"],
        "score_threshold": said["filter_thr" if project == "mmdet" else "update_thr"],
        "candidates": said["nms_pre"],
        "sigma": said.get("sigma", 2.0),
        "max_detections": said["max_per_img"],
    }


def variant_of(system: str, project: str) -> str:
    """wxinlong_solov2_light_448_r50 -> solov2_light_r50_fpn."""
    return re.sub(r"_\d{3}(?=_)", "", system.removeprefix(project + "_")) + "_fpn"


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, str, Any, Any, tuple[torch.Tensor, ...]]:
    """The fixture, its project, our model with its weights, what it says, and its pyramid."""
    fixture = open_fixture(stem)
    said = fixture.manifest["config"]
    project = fixture.manifest["system"].split("_")[0]
    convert = from_mmdet.convert if project == "mmdet" else from_solo.convert
    build = models.variant(variant_of(fixture.manifest["system"], project))
    with torch.device("meta"):
        model = build(num_classes=said["num_classes"], **config_of(said, project))
    model.to_empty(device="cpu").eval()
    fill(model, convert(weights(fixture)))
    pyramids: list[Any] = []
    model.backbone.register_forward_hook(lambda module, inputs, output: pyramids.append(output.maps))
    with torch.inference_mode():
        raw = model(batch(fixture))
    return fixture, project, model, raw, pyramids[0]


def check_losses_of(stem: str) -> None:
    fixture, project, model, raw, _ = ran(stem)
    target = fixture.target()
    height, width = fixture.input().shape[-2:]
    objects = Instances(
        image_size=(height, width),
        boxes=torch.from_numpy(target["boxes"]),
        labels=torch.from_numpy(target["labels"]),
        masks=RLE.from_bitmaps(target["masks"]),
    )
    with torch.inference_mode():
        check_losses(fixture, model.losses(raw, [objects]), LOSSES[project])


def check_detections_of(stem: str, case: str) -> None:
    fixture, _, model, raw, _ = ran(stem)
    said = fixture.manifest["detections"][case]
    with torch.inference_mode():
        (found,) = model.decode(raw._replace(sizes=(tuple(said["img_shape"]),)), DecodeOptions())
    check_detections(fixture, case, found.resize(tuple(said["ori_shape"])))


def mask_maps(model: SOLO, raw: Raw, index: int) -> dict[str, torch.Tensor]:
    """What a level's masks are made of, by the recorded names; of all cells, which no verb ever needs."""
    if hasattr(model.mask_branch, "masks"):
        return {f"mask_logits.{index}": model.mask_branch.masks[index](raw.maps[index])}
    columns, rows = raw.maps[index].chunk(2, dim=1)
    return {f"mask_x_logits.{index}": columns, f"mask_y_logits.{index}": rows}


@pytest.mark.parametrize("stem", STEMS)
def test_raw(stem):
    fixture, _, model, raw, pyramid = ran(stem)
    for i, level in enumerate(pyramid):
        check_raw(fixture, f"neck.{i}", level)
    for i, logits in enumerate(raw.logits):
        check_raw(fixture, f"cls_logits.{i}", logits)
        with torch.inference_mode():
            for name, maps in mask_maps(model, raw, i).items():
                check_raw(fixture, name, maps)


@pytest.mark.parametrize("case", ["plain", "padded_rescaled"])
@pytest.mark.parametrize("stem", STEMS)
def test_detections(stem, case):
    check_detections_of(stem, case)


@pytest.mark.parametrize("stem", STEMS)
def test_losses(stem):
    check_losses_of(stem)
