"""Settings that stood on one level in format 2 find their place in today's configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eachmask import models
from eachmask.models.config import changed
from eachmask.weights.format_2_one_stage import PLACES
from eachmask.weights.migrate import migrated_header, nested


@pytest.mark.parametrize("module", sorted(PLACES))
def test_every_place_is_there_today(module):
    variant = next(name for name, home in models.VARIANTS.items() if home == module)
    with torch.device("meta"):
        config = models.variant(variant)(num_classes=1).config
    flat = {name: value_at(config, place) for name, place in PLACES[module].items()}
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
