"""PSPNet, DeepLabv3+, UPerNet and SegFormer against recorded outputs of MMSegmentation."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import recorded
from parity.sliding import check_sliding
from parity.swin import swin_settings

from eachmask import models
from eachmask.models.semantic.labeling import resized
from eachmask.structures import DecodeOptions, ImageBatch, SemanticMap
from eachmask.weights.renaming import fill


def pspnet(said):
    head = said["decode_head"]
    variant = models.pspnet_r50_d8_align if head["align_corners"] else models.pspnet_r50_d8
    return variant, {"width": head["channels"], "scales": head["pool_scales"]}


def upernet(said):
    head = said["decode_head"]
    return models.upernet_swin_t, {"width": head["channels"], "scales": head["pool_scales"]}


def deeplabv3plus(said):
    head = said["decode_head"]
    decoder = {
        "rates": head["dilations"][1:], "aspp_width": head["channels"], "width": head["channels"],
        "low_widths": [head["c1_channels"]],
    }  # fmt: skip
    return models.deeplabv3plus_r50_d8, {"decoder": decoder}


def segformer(said):
    body = said["backbone"]
    dim, heads = body["embed_dims"], body["num_heads"]
    backbone = {
        "widths": [dim * n for n in heads], "depths": body["num_layers"], "heads": heads,
        "reductions": body["sr_ratios"], "expansion": body["mlp_ratio"],
    }  # fmt: skip
    return models.segformer_b0, {"width": said["decode_head"]["channels"], "backbone": backbone}


FAMILIES = {"pspnet": pspnet, "upernet": upernet, "deeplabv3plus": deeplabv3plus, "segformer": segformer}


@pytest.fixture(scope="module", params=recorded(*(f"mmseg_{name}" for name in FAMILIES)))
def case(request):
    fixture = open_dense(request.param)
    family = next(name for name in FAMILIES if f"_{name}_" in fixture.manifest["system"])
    said = fixture.manifest["config"]["model"]
    variant, config = FAMILIES[family](said)
    if "auxiliary_head" in said:
        aux = said["auxiliary_head"]
        config |= {"aux_width": aux["channels"], "aux_weight": aux["loss_decode"]["loss_weight"]}
    if said["backbone"]["type"] == "SwinTransformer":
        fixture.manifest["config"]["backbone"] = said["backbone"]
        config["swin"] = {**swin_settings(fixture), "drop_path": 0.0}
    model = variant(num_classes=fixture.manifest["config"]["num_classes"], **config).eval()
    convert = importlib.import_module(f"eachmask.weights.from_mmseg.{family}").convert
    fill(model, convert({k: torch.from_numpy(np.asarray(v)) for k, v in fixture.weights().items()}))
    return fixture, model, convert


def batch_of(array, size=None) -> ImageBatch:
    tensor = torch.as_tensor(array)
    return ImageBatch(tensor, (tuple(size or tensor.shape[-2:]),))


def check(fixture, name, tensor) -> None:
    error, same = fixture.compare_raw(name, tensor.detach().numpy())
    assert same and error < 1e-3, (name, error)


def test_maps(case):
    fixture, model, _ = case
    batch = batch_of(fixture.input())
    for number, x in enumerate(model.backbone(batch.tensor).maps):
        check(fixture, f"backbone.{number}", x)
    with torch.enable_grad():
        raw = model(batch)
    check(fixture, "decode_low", raw.logits)
    check(fixture, "logits", resized(raw.logits, raw.padded, model.aligned))
    if "aux_low" in fixture.manifest["raw"]:
        check(fixture, "aux_low", raw.aux)


@pytest.mark.parametrize("name", ["plain", "padded_rescaled"])
def test_labels(case, name):
    fixture, model, _ = case
    shapes = fixture.manifest["cases"][name]
    with torch.no_grad():
        raw = model(batch_of(fixture.input(), shapes["img_shape"]))
    (seen,) = model.decode(raw, DecodeOptions())
    labels = seen.resize(tuple(shapes["ori_shape"])).labels.numpy()
    pixels, same = fixture.compare_full(f"{name}.sem_labels", labels)
    assert same and pixels / labels.size <= max(1e-3, 5 * fixture.manifest["stability"]["label_change"])


def test_losses_and_gradients(case):
    fixture, model, convert = case
    said = fixture.manifest
    labels = dense().make_label_map(*said["made"]["target_labels"]["shape"], said["config"]["num_classes"], seed=4)
    target = SemanticMap(torch.from_numpy(labels))
    with torch.enable_grad():
        losses = model.losses(model(batch_of(fixture.input())), [target])
        sum(losses.values()).backward()
    assert float(losses["pixels"]) == pytest.approx(said["losses"]["decode.loss_ce"], rel=1e-3)
    assert float(sum(losses.values())) == pytest.approx(said["losses"]["total"], rel=1e-3)
    own = dict(model.named_parameters())
    for theirs in said["grads"]:
        (name,) = convert({theirs: torch.zeros(1)})
        error, same = fixture.compare_grad(theirs, own[name].grad.numpy())
        assert same and error < (5e-2 if theirs.startswith("backbone") else 1e-3), (theirs, error)
    model.zero_grad()


def test_sliding_windows(case):
    """The 769 x 769 family was recorded window by window too."""
    fixture, model, _ = case
    if "slide.logits" not in fixture.manifest["raw"]:
        pytest.skip("recorded of whole images alone")
    check_sliding(fixture, model)
