"""Background Matting V2 against recorded outputs of its authors' code."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import check_raw, recorded, weights

from eachmask import models
from eachmask.models.config import changed
from eachmask.structures import DecodeOptions, ImageBatch, Matte
from eachmask.structures.backdrop import Backdrop
from eachmask.weights import from_background_matting_v2
from eachmask.weights.renaming import fill

HEADS = ("decoder.conv4", "refiner.conv4")
TERMS = {
    "pha_l1": "alpha",
    "pha_sm_l1": "coarse_alpha",
    "pha_sobel": "edges",
    "pha_sm_sobel": "coarse_edges",
    "fgr_l1": "foreground",
    "fgr_sm_l1": "coarse_foreground",
    "err_mse": "error",
}


@pytest.fixture(scope="module", params=recorded("background_matting_v2"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_dense(request.param)


@pytest.fixture(scope="module")
def scene(fixture: Any) -> dict[str, torch.Tensor]:
    how = fixture.manifest["made"]["src"]["how"]
    height, width, seed = (int(n) for n in re.search(r"make_matting_scene\((\d+), (\d+), seed=(\d+)\)", how).groups())
    image, fgr, bgr, alpha, _ = dense().make_matting_scene(height, width, seed=seed)
    maps = {"src": image, "fgr": fgr, "bgr": bgr, "alpha": alpha[..., None]}
    return {name: torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None] for name, values in maps.items()}


@pytest.fixture(scope="module")
def network(fixture: Any) -> Any:
    said = fixture.manifest["config"]
    model = models.variant(f"background_matting_v2_{said['backbone']}")(
        scale=said["backbone_scale"], rates=said["aspp_rates"], kernel=said["refine_kernel_size"]
    )
    fill(model, from_background_matting_v2.convert(weights(fixture)))
    return model.eval()


def set_to(network: Any, **config: Any) -> Any:
    """The same weights with other settings."""
    model = copy.copy(network)
    model.config = changed(network.config, config)
    return model


def mode_settings(said: dict[str, Any]) -> dict[str, Any]:
    words = {"refine_sample_pixels": "sample_pixels", "refine_threshold": "threshold"}
    return {words.get(name, name): value for name, value in said.items()}


def seen(scene: dict[str, torch.Tensor]) -> tuple[ImageBatch, list[Backdrop]]:
    height, width = scene["src"].shape[2:]
    return ImageBatch(scene["src"], ((height, width),)), [Backdrop(scene["bgr"][0])]


def test_base(fixture, network, scene):
    model = set_to(network, mode="base", scale=1.0)
    pair = torch.cat([scene["src"], scene["bgr"]], 1)
    *shortcuts, deepest = model.backbone(pair)
    check_raw(fixture, "base.backbone", deepest)
    for i, shortcut in enumerate(shortcuts[::-1]):
        check_raw(fixture, f"base.shortcut.{i}", shortcut)
    check_raw(fixture, "base.aspp", model.aspp(deepest))
    check_raw(fixture, "base.hid", model.coarse(pair).hidden)
    raw = model(*seen(scene))
    for name, ours in {"pha": raw.alpha, "fgr": raw.foreground, "err": raw.error}.items():
        check_raw(fixture, f"base.{name}", ours)


def test_refined(fixture, network, scene):
    for mode, said in fixture.manifest["config"]["modes"].items():
        raw = set_to(network, **mode_settings(said))(*seen(scene))
        bits = np.packbits(raw.refined.numpy().astype(np.uint8).reshape(-1))
        chosen = np.unpackbits(bits ^ fixture.full(f"{mode}.ref")).sum()
        assert chosen <= 1e-3 * raw.refined.numel(), mode
        assert int(raw.refined.sum()) == pytest.approx(fixture.manifest["refined_cells"][mode], abs=2), mode
        ours = {"pha": raw.alpha, "fgr": raw.foreground, "pha_sm": raw.coarse_alpha}
        ours |= {"fgr_sm": raw.coarse_foreground, "err_sm": raw.error}
        for name, value in ours.items():
            if f"{mode}.{name}" in fixture.manifest["raw"]:
                check_raw(fixture, f"{mode}.{name}", value)
        (matte,) = network.decode(raw, DecodeOptions())
        assert torch.equal(matte.alpha, raw.alpha[0, 0]) and torch.equal(matte.foreground, raw.foreground[0])


@torch.enable_grad()
@pytest.mark.parametrize("stage", ["base", "refine"])
def test_losses_and_gradients(fixture, network, scene, stage):
    config = {"mode": "base", "scale": 1.0} if stage == "base" else {"mode": "thresholding", "threshold": 0.1}
    model = set_to(network, **config)
    network.zero_grad()
    losses = model.losses(model(*seen(scene)), [Matte(scene["alpha"][0, 0], scene["fgr"][0])])
    for theirs, ours in TERMS.items():
        if f"{stage}.{theirs}" in fixture.manifest["losses"]:
            expected = fixture.manifest["losses"][f"{stage}.{theirs}"]
            assert float(losses[ours].detach()) == pytest.approx(expected, rel=1e-3, abs=1e-5), theirs
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    for name in fixture.manifest["grads"]:
        if name.startswith(stage + "."):
            own = parameters[name.removeprefix(stage + ".")]
            error, same = fixture.compare_grad(name, own.grad.numpy())
            assert same and error < (1e-3 if any(head in name for head in HEADS) else 5e-2), (name, error)
