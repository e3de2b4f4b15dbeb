"""The padded U-Net against recorded outputs of MMSegmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import recorded
from parity.sliding import check_sliding

from eachmask import models
from eachmask.structures import DecodeOptions, ImageBatch, SemanticMap
from eachmask.weights.from_mmseg.unet import convert
from eachmask.weights.renaming import fill


@pytest.fixture(scope="module", params=recorded("mmseg_unet"))
def case(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    body, aux = said["model"]["backbone"], said["model"]["auxiliary_head"]
    config = {
        "width": body["base_channels"],
        "depth": body["num_stages"] - 1,
        "aux_weight": aux["loss_decode"]["loss_weight"],
        "loss": {"mean_over": "all"},
    }
    model = models.unet_s5_d16(num_classes=said["num_classes"], **config).eval()
    fill(model, convert({k: torch.from_numpy(np.asarray(v)) for k, v in fixture.weights().items()}))
    return fixture, model


def batch_of(array, size=None) -> ImageBatch:
    tensor = torch.as_tensor(array)
    return ImageBatch(tensor, (tuple(size or tensor.shape[-2:]),))


def test_maps(case):
    fixture, model = case
    with torch.enable_grad():
        raw = model(batch_of(fixture.input()))
    for name, tensor in (("decode_low", raw.logits), ("aux_low", raw.aux)):
        error, same = fixture.compare_raw(name, tensor.detach().numpy())
        assert same and error < 1e-3, name


@pytest.mark.parametrize("name", ["plain", "padded_rescaled"])
def test_labels(case, name):
    fixture, model = case
    shapes = fixture.manifest["cases"][name]
    batch = batch_of(fixture.input(), shapes["img_shape"])
    (seen,) = model.decode(model(batch), DecodeOptions())
    labels = seen.resize(tuple(shapes["ori_shape"])).labels.numpy()
    pixels, same = fixture.compare_full(f"{name}.sem_labels", labels)
    assert same and pixels / labels.size <= max(1e-3, 5 * fixture.manifest["stability"]["label_change"])


def test_losses_and_gradients(case):
    fixture, model = case
    said = fixture.manifest
    labels = dense().make_label_map(*said["made"]["target_labels"]["shape"], said["config"]["num_classes"], seed=4)
    target = SemanticMap(torch.from_numpy(labels))
    with torch.enable_grad():
        losses = model.losses(model(batch_of(fixture.input())), [target])
        sum(losses.values()).backward()
    assert float(losses["pixels"]) == pytest.approx(said["losses"]["decode.loss_ce"], rel=1e-3)
    assert float(losses["aux_pixels"]) == pytest.approx(said["losses"]["aux.loss_ce"], rel=1e-3)
    own = dict(model.named_parameters())
    for theirs in said["grads"]:
        (name,) = convert({theirs: torch.zeros(1)})
        error, same = fixture.compare_grad(theirs, own[name].grad.numpy())
        assert same and error < (5e-2 if theirs.startswith("backbone") else 1e-3), theirs
    model.zero_grad()


def test_sliding_windows(case):
    fixture, model = case
    check_sliding(fixture, model)
