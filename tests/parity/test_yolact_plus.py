"""YOLACT++ against recorded outputs of the authors' release."""

from __future__ import annotations

import pytest
import torch
from parity.recorded import Ran, check_losses, open_fixture, original_size, recorded, run
from parity.test_yolact import CASES, check_release_detections, check_release_raw, release_config

from eachmask.models.config import changed
from eachmask.models.instance.yolact_plus import yolact_plus_r50, yolact_plus_r101
from eachmask.structures import DecodeOptions
from eachmask.weights import from_yolact


@pytest.fixture(scope="module", params=recorded("dbolya_yolact_plus_r50", "dbolya_yolact_plus_r101"))
def ran(request: pytest.FixtureRequest) -> Ran:
    fixture = open_fixture(request.param)
    variant = yolact_plus_r101 if "r101" in fixture.manifest["system"] else yolact_plus_r50
    return run(fixture, variant, from_yolact.convert, release_config(fixture))


def test_raw_outputs(ran):
    check_release_raw(ran)


@pytest.mark.parametrize("case", CASES)
def test_boxes_with_class_scores_and_masks_with_both(ran, case, monkeypatch):
    """The release gives every object two scores; ours is the product, or without rescoring the class's."""
    _, model, raw = ran
    (found,) = model.decode(raw, DecodeOptions())
    monkeypatch.setattr(model, "config", changed(model.config, {"rescore": {"used": False}}))
    selected = model.select(raw, DecodeOptions())
    (by_class,) = model.pack(selected, DecodeOptions())
    by_class = by_class.resize(original_size(ran.fixture, case))
    check_release_detections(ran.fixture, case, by_class)
    products = by_class.scores * model.predicted_iou(raw, selected.crops[0], by_class.labels)
    reference = ran.array(f"det/{case}/mask_scores")
    assert torch.allclose(products.sort().values, reference.sort().values, atol=1e-3)
    assert torch.allclose(found.scores, products.clamp(max=1).sort(descending=True).values)


def test_losses(ran):
    names = {"class": "C", "box": "B", "mask": "M", "semantic": "S", "mask_iou": "I"}
    check_losses(ran.fixture, ran.model.losses(ran.raw, [ran.target()]), names)
