"""YOLACT++ against recorded outputs of the authors' release."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from parity.recorded import batch, check_losses, open_fixture, recorded, weights
from parity.test_yolact import check_release_detections, check_release_raw, release_config, target_of

from eachmask.models.instance.yolact import Raw
from eachmask.models.instance.yolact_plus import YOLACTPlus, yolact_plus_r50, yolact_plus_r101
from eachmask.structures import DecodeOptions
from eachmask.weights import from_yolact
from eachmask.weights.renaming import fill

STEMS = recorded("dbolya_yolact_plus_r50", "dbolya_yolact_plus_r101")


@lru_cache(maxsize=1)
def ran(stem: str) -> tuple[Any, YOLACTPlus, Raw]:
    """The fixture, our model with its weights, and what it says of its input."""
    fixture = open_fixture(stem)
    build = yolact_plus_r101 if "r101" in fixture.manifest["system"] else yolact_plus_r50
    model = build(num_classes=fixture.manifest["config"]["num_classes"], **release_config(fixture)).eval()
    fill(model, from_yolact.convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, model(batch(fixture))


@pytest.mark.parametrize("stem", STEMS)
def test_raw_outputs(stem):
    check_release_raw(*ran(stem))


@pytest.mark.parametrize("stem", STEMS)
def test_boxes_with_class_scores_and_masks_with_both(stem):
    """The release gives every object two scores; ours is the product, or with ``rescore=False`` the class's."""
    fixture, model, raw = ran(stem)
    config = model.config
    for name, case in fixture.manifest["detections"].items():
        size = (case["height"], case["width"])
        model.config = replace(config, rescore=False)
        (by_class,) = model.decode(raw, DecodeOptions())
        check_release_detections(fixture, name, by_class.resize(size))
        products = by_class.scores * model.predicted_iou(by_class, raw)
        recorded_products = torch.from_numpy(fixture.arrays[f"det/{name}/mask_scores"])
        assert torch.allclose(products.sort().values, recorded_products.sort().values, atol=1e-3)
        model.config = config
        (found,) = model.decode(raw, DecodeOptions())
        assert torch.allclose(found.scores, products.clamp(max=1).sort(descending=True).values)


@pytest.mark.parametrize("stem", STEMS)
def test_losses(stem):
    fixture, model, raw = ran(stem)
    with torch.no_grad():
        losses = model.losses(raw, [target_of(fixture)])
    check_losses(fixture, losses, {"class": "C", "box": "B", "mask": "M", "semantic": "S", "mask_iou": "I"})
