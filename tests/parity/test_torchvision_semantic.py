"""FCN, DeepLabv3 and LR-ASPP against recorded outputs of torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import recorded

from eachmask import models
from eachmask.models.semantic.labeling import resized
from eachmask.structures import DecodeOptions, ImageBatch, SemanticMap
from eachmask.weights.from_torchvision_semantic import convert
from eachmask.weights.renaming import fill

SYSTEMS = ("torchvision_fcn", "torchvision_deeplabv3", "torchvision_lraspp")


@pytest.fixture(scope="module", params=recorded(*SYSTEMS))
def case(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    config = {"aux": said["aux"], "aux_weight": said["aux_weight"]} if said["aux"] else {}
    name = fixture.manifest["system"].removeprefix("torchvision_")
    model = models.variant(name)(num_classes=said["num_classes"], **config).eval()
    fill(model, convert({k: torch.from_numpy(np.asarray(v)) for k, v in fixture.weights().items()}))
    return fixture, model


def batch_of(array) -> ImageBatch:
    tensor = torch.as_tensor(array)
    return ImageBatch(tensor, ((tensor.shape[2], tensor.shape[3]),))


def check(fixture, name, tensor) -> None:
    error, same = fixture.compare_raw(name, tensor.detach().numpy())
    assert same and error < 1e-3, (name, error)


def test_maps_and_labels(case):
    fixture, model = case
    with torch.enable_grad():  # the auxiliary head speaks where something is learnt
        raw = model(batch_of(fixture.input()))
    check(fixture, "out_low", raw.logits)
    check(fixture, "out", resized(raw.logits, raw.padded))
    if raw.aux is not None:
        check(fixture, "aux_low", raw.aux)
        check(fixture, "aux", resized(raw.aux, raw.padded))
    (seen,) = model.decode(raw, DecodeOptions())
    pixels, same = fixture.compare_full("labels", seen.labels.numpy())
    assert same and pixels / seen.labels.numel() <= max(1e-3, 5 * fixture.manifest["stability"]["label_change"])


def test_a_size_that_is_no_multiple(case):
    fixture, model = case
    with torch.enable_grad():
        raw = model(batch_of(fixture.more_input("odd")))
    check(fixture, "odd.out", resized(raw.logits, raw.padded))
    if raw.aux is not None:
        check(fixture, "odd.aux", resized(raw.aux, raw.padded))


def test_losses_and_gradients(case):
    fixture, model = case
    said = fixture.manifest
    shape, num = said["made"]["target_labels"]["shape"], said["config"]["num_classes"]
    labels = dense().make_label_map(*shape, num, seed=4)
    assert dense().digest(labels) == said["made"]["target_labels"]["sha256"]
    target = SemanticMap(torch.from_numpy(labels))
    with torch.enable_grad():
        losses = model.losses(model(batch_of(fixture.input())), [target])
        total = sum(losses.values())
        total.backward()
    said = fixture.manifest["losses"]
    assert float(losses["pixels"]) == pytest.approx(said["loss_out"], rel=1e-3)
    assert float(total) == pytest.approx(said["total"], rel=1e-3)
    ours = {theirs: next(iter(convert({theirs: torch.zeros(1)}))) for theirs in fixture.manifest["grads"]}
    own = dict(model.named_parameters())
    for theirs, name in ours.items():
        error, same = fixture.compare_grad(theirs, own[name].grad.numpy())
        assert same and error < (5e-2 if theirs.startswith("backbone") else 1e-3), (theirs, error)
    model.zero_grad()
