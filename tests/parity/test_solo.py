"""SOLO and SOLOv2, in all forms, against recorded outputs of MMDetection and of the authors' code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from parity.recorded import (
    CASES,
    Ran,
    batch,
    check_decoded,
    check_levels,
    check_losses,
    check_pyramid,
    check_raw,
    on,
    open_fixture,
    project_of,
    run,
)

from eachmask import models
from eachmask.models.instance.grid_heads import STRIDES, doubled
from eachmask.models.instance.solo import SOLO, Raw
from eachmask.ops.mask_candidates import find_candidates
from eachmask.weights import from_solo
from eachmask.weights.from_mmdet import solo as from_mmdet

FIRST = ("mmdet_solo_", "mmdet_decoupled_solo_", "wxinlong_solo_", "wxinlong_decoupled_solo_")
SECOND = ("mmdet_solov2_", "wxinlong_solov2_")
LOSSES = {"mmdet": {"class": "loss_cls", "mask": "loss_mask"}, "wxinlong": {"class": "loss_cate", "mask": "loss_ins"}}


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    project = project_of(fixture)
    convert = from_mmdet.convert if project == "mmdet" else from_solo.convert
    variant = models.variant(variant_of(fixture.manifest["system"], project))
    return run(fixture, variant, convert, config_of(fixture.manifest["config"], project))


def variant_of(system: str, project: str) -> str:
    """wxinlong_solov2_light_448_r50 -> solov2_light_r50_fpn."""
    return re.sub(r"_\d{3}(?=_)", "", system.removeprefix(project + "_")) + "_fpn"


def config_of(said: dict[str, Any], project: str) -> dict[str, Any]:
    """Our names of the recorded settings."""
    return {
        "grids": tuple(said["num_grids"]),
        "scale_ranges": tuple(tuple(pair) for pair in said["scale_ranges"]),
        "center_share": said["pos_scale" if project == "mmdet" else "pos_sigma"],
        "mask_mean": "cells" if project == "mmdet" else "pairs",
        "candidate_threshold": said["score_thr"],
        "score_threshold": said["filter_thr" if project == "mmdet" else "update_thr"],
        "candidates": said["nms_pre"],
        "sigma": said.get("sigma", 2.0),
        "max_detections": said["max_per_img"],
    }


@on(*FIRST, *SECOND)
def test_pyramid_and_classes(ran):
    check_pyramid(ran.fixture, ran.model.backbone(batch(ran.fixture).tensor).maps)
    check_levels(ran.fixture, cls_logits=ran.raw.logits)


@on(*FIRST)
def test_masks(ran):
    for i in range(len(ran.raw.maps)):
        for name, maps in mask_maps(ran.model, ran.raw, i).items():
            check_raw(ran.fixture, name, maps)


def mask_maps(model: SOLO, raw: Raw, index: int) -> dict[str, torch.Tensor]:
    """What a level's masks are made of, by the recorded names; of all cells, which no verb ever needs."""
    if hasattr(model.mask_branch, "masks"):
        return {f"mask_logits.{index}": model.mask_branch.masks[index](doubled(raw.maps[index]))}
    columns, rows = raw.maps[index].chunk(2, dim=1)
    return {f"mask_x_logits.{index}": columns, f"mask_y_logits.{index}": rows}


@on(*SECOND)
def test_kernels_and_mask_features(ran):
    check_levels(ran.fixture, kernel=ran.raw.kernels)
    check_raw(ran.fixture, "mask_feat", ran.raw.mask_features)


@on(*FIRST, *SECOND)
def test_what_prediction_makes_of_it(ran):
    """Scores that are left of the classes, and the masks of all cells of the recorded levels, at stride 4."""
    names = [name for name in ran.fixture.manifest["raw"] if name.startswith("eval_")]
    if not names:
        pytest.skip("only the training form was recorded")
    for name in names:
        kind, level = name.split(".")
        check_raw(ran.fixture, name, EVALUATED[kind](ran, int(level)))


def scores_left(ran: Ran, index: int) -> torch.Tensor:
    """(1, K, S, S): 0 where a neighbor's score is higher."""
    logits = ran.raw.logits[index]
    found = find_candidates([logits[0]], 0.0, [0])
    scores = torch.zeros_like(logits).flatten(2)
    scores[0, found.labels, found.cells] = found.scores
    return scores.view_as(logits)


def all_cells(ran: Ran, index: int) -> torch.Tensor:
    """(1, S S, H / 4, W / 4) probabilities."""
    grid, half = ran.model.config.grids[index], STRIDES[0] // 2
    size = ran.raw.batch_size[0] // half, ran.raw.batch_size[1] // half
    return ran.model.mask_branch.predict(ran.raw.maps[index][0], index, torch.arange(grid**2), size)[None]


def all_columns(ran: Ran, index: int) -> torch.Tensor:
    """(1, S, H / 4, W / 4): a cell's mask is its column's times its row's, and each row's is 1 here."""
    grid, half = ran.model.config.grids[index], STRIDES[0] // 2
    size = ran.raw.batch_size[0] // half, ran.raw.batch_size[1] // half
    columns = ran.raw.maps[index][0, :grid]
    maps = torch.cat([columns, torch.full_like(columns, 100.0)])
    return ran.model.mask_branch.predict(maps, index, torch.arange(grid), size)[None]


EVALUATED = {"eval_cls": scores_left, "eval_mask": all_cells, "eval_mask_x": all_columns}


@pytest.mark.parametrize("case", CASES)
@on(*FIRST, *SECOND)
def test_detections(ran, case):
    check_decoded(ran, case)


@on(*FIRST, *SECOND)
def test_losses(ran):
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), LOSSES[ran.project])
