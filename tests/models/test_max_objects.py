"""How many objects a model can find at most: as many as it has candidates, of which many are asked for in vain."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import spots_image, spots_info

from eachmask import models
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
from eachmask.structures import Category, DecodeOptions

FEW = {"select": {"candidates": 3}}
MODELS: list[tuple[str, dict[str, Any], int]] = [  # and the limit for 2 classes and five levels
    ("fcos_lite0_fpn", FEW, 15),
    ("blendmask_lite0_fpn", FEW, 15),
    ("condinst_lite0_fpn", FEW, 15),
    ("condinst_lite0_fpn", FEW | {"ranking": {"sigma": 2.0, "candidates": 7}}, 7),
    ("polarmask_lite0_fpn", {"select": {"candidates": 1}}, 10),
    ("retinanet_lite0_fpn", {"candidates": 3}, 15),
    ("rtmdet_ins_nano", {"candidates": 3}, 9),
    ("tensormask_lite0_fpn", {"candidates": 7}, 7),
    ("yolact_lite0", {"select": {"per_class": 4}}, 8),
    ("stardist_lite0", {"max_candidates": 7}, 7),
]
ALL = {"score_threshold": 0.0, "nms_threshold": 1.0}


def predictor_of(name: str, config: dict[str, Any]) -> Predictor:
    torch.manual_seed(0)
    model = models.variant(name)(num_classes=2, **config).eval()
    classes = (Category(1, "a"), Category(2, "b"))
    info = spots_info(categories=classes, variant=name)
    return Predictor(model, info, device="cpu", precision="fp32", optimize=False)


@pytest.mark.parametrize(("name", "config", "limit"), MODELS)
def test_no_model_finds_more(name: str, config: dict[str, Any], limit: int):
    predictor = predictor_of(name, config)
    assert predictor.model.max_objects == limit
    image = spots_image(0, 128, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predictor.predict(image, options=DecodeOptions(**ALL, max_detections=limit))
    assert 0 < len(found) <= limit  # fewer where boxes are empty or stars hide each other
    with pytest.warns(UserWarning, match=f"{10**6} objects were asked for, but this model finds at most {limit} "):
        more = predictor.predict(image, options=DecodeOptions(**ALL, max_detections=10**6))
    assert np.array_equal(more.scores, found.scores)


def test_choosing_classes_asks_for_no_more_than_there_can_be(tmp_path: Path):
    Image.fromarray(spots_image(0, 128, 128)).save(tmp_path / "a.png")
    options = BatchOptions(DecodeOptions(max_detections=2), classes=("a",))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        predictor = predictor_of("rtmdet_ins_nano", {"candidates": 3})
        summary = run(predictor, find_inputs([tmp_path]), tmp_path / "out", options)
    assert not summary.failures
