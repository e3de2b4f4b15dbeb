"""Settings that stood on one level in format 2 find their place in today's configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eachmask import models
from eachmask.models.config import changed
from eachmask.weights import format_2, format_2_one_stage
from eachmask.weights.migrate import migrated_header, nested

PLACES = {**format_2.PLACES, **format_2_one_stage.PLACES}


@pytest.mark.parametrize("module", sorted(PLACES))
def test_every_place_is_there_today(module):
    variant = next(name for name, home in models.VARIANTS.items() if home == module)
    with torch.device("meta"):
        config = models.variant(variant)(num_classes=1).config
    flat = {name: value_at(config, place) for name, place in PLACES[module].items() if place}
    assert changed(config, nested(variant, flat)) == config


def value_at(config: Any, place: str) -> Any:
    for part in place.split("."):
        config = getattr(config, part)
    return config


def test_a_header_of_format_2_is_nested_and_one_of_today_stays():
    flat = {"score_threshold": 0.005, "matrix_sigma": 1.0, "maskness_power": 3.0, "agnostic": True}
    there = {"score_threshold": 0.005, "ranking": {"sigma": 1.0, "maskness_power": 3.0}, "agnostic": True}
    header = {"variant": "condinst_lite0_fpn", "categories": []}
    assert migrated_header(header | {"format": 2, "config": flat})["config"] == there
    assert migrated_header(header | {"format": 3, "config": there})["config"] == there


def test_a_header_of_format_1_with_several_settings_loads():
    """As trained with the first version: old words, all on one level, lists for tuples, some that nothing reads."""
    flat = {
        "anchor_sizes": [16, 32, 64, 128, 256], "rpn_high": 0.8, "rpn_candidates": 500, "proposals": 300,
        "roi_sampling": 0, "rpn_rescue": 0.3, "rescue_moves": True, "roi_batch": 64, "box_width": 256,
        "box_agnostic": True, "box_beta": 0.0, "mask_width": 128, "mask_binary": True, "one_label": True,
        "score_threshold": 0.1,
    }  # fmt: skip
    header = {"variant": "mask_rcnn_r50_fpn", "categories": [{"id": 1, "name": "nucleus"}], "licence": "CC0-1.0"}
    migrated = migrated_header(header | {"config": flat})
    with torch.device("meta"):
        config = models.mask_rcnn_r50_fpn(num_classes=1, **migrated["config"]).config
    assert migrated["license"] == "CC0-1.0"
    assert config.rpn.anchor_sizes == (16, 32, 64, 128, 256) and config.rpn.fg_iou == 0.8
    assert (config.rpn.pre_nms_top_n, config.rpn.post_nms_top_n) == (500, 300)
    assert config.roi.batch_size == 64 and config.roi.fg_iou == 0.5
    assert config.box_head.width == 256 and config.box_head.class_agnostic and config.box_head.layers == 2
    assert config.mask_head.width == 128 and config.mask_head.convs == 4
    conventions = config.conventions
    assert (conventions.sampling_ratio, conventions.low_quality_iou, conventions.low_quality_moves) == (0, 0.3, True)
    assert (conventions.smooth_l1_beta, conventions.binary_masks, conventions.roi_aligned) == (0.0, True, False)
    assert config.class_agnostic_nms and config.score_threshold == 0.1


def test_what_nothing_ever_read_is_left_out():
    assert nested("rcnn_lite0", {"roi_size": 7, "crop_side": 64, "svm_low": 0.2}) == {
        "crop": {"side": 64},
        "svm": {"bg_iou": 0.2},
    }
