"""Every named weight of a network that labels pixels: what a user must know of it, and that it has a place.

Names and shapes are compared at the size of the published weights, on torch's ``meta`` device, which holds no numbers;
MMSegmentation's and MMDetection's names are those of ``tests/parity`` and ``test_mask2former``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
import torch
from torchvision.models import segmentation
from weights.test_mask2former import as_theirs

from eachmask import models
from eachmask.weights.catalogue import Entry, entries

NAMED = [entry for entry in entries().values() if entry.task in ("semantic", "panoptic")]
each = pytest.mark.parametrize("entry", NAMED, ids=lambda entry: entry.name)


def of_converter(name: str) -> pytest.MarkDecorator:
    chosen = [entry for entry in NAMED if entry.converter == name]
    return pytest.mark.parametrize("entry", chosen, ids=lambda entry: entry.name)


def converter(entry: Entry) -> ModuleType:
    return import_module(f"eachmask.weights.{entry.converter}")


def ours(entry: Entry) -> torch.nn.Module:
    with torch.device("meta"):
        built: torch.nn.Module = models.variant(entry.name)(num_classes=len(entry.categories), **entry.config)
    return built


def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}


@each
def test_what_a_user_must_know_is_there(entry):
    assert "weights" in entry.license and len(entry.sha256) >= 8 and entry.published
    assert all(0 < score.value <= 100 and score.data for score in entry.published)
    assert entry.categories and entry.url.startswith("https://")


@of_converter("from_torchvision_semantic")
def test_torchvisions_weights_have_a_place_each(entry):
    with torch.device("meta"):
        aux = {} if entry.name.startswith("lraspp") else {"aux_loss": True}
        theirs = getattr(segmentation, entry.name)(weights=None, weights_backbone=None, num_classes=21, **aux)
    assert shapes(converter(entry).convert(theirs.state_dict())) == shapes(ours(entry).state_dict())


@of_converter("from_mmdet.mask2former")
def test_names_of_mmdetections_head_have_a_place_each(entry):
    model = ours(entry)
    layers = len(model.pixel_decoder.layers), len(model.decoder.layers)
    assert layers == (6, 9) and len(model.decoder.content) in (100, 200)
    kind = "decode_head" if entry.task == "semantic" else "panoptic_head"
    small = {name: value for name, value in model.state_dict().items() if name.startswith(("pixel_decoder", "decoder"))}
    found = converter(entry).convert(as_theirs(model, kind, small))
    assert shapes(found) == shapes(small)
