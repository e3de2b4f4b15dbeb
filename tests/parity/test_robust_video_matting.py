"""Robust Video Matting against recorded outputs of its authors' code."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import check_raw, doubled, recorded, weights

from eachmask import models
from eachmask.models.config import changed
from eachmask.models.matting.robust_video_matting import FastGuidedFilter, matting_losses
from eachmask.structures import ImageBatch
from eachmask.weights import from_robust_video_matting
from eachmask.weights.renaming import fill

TERMS = {
    "pha_l1": "alpha",
    "pha_laplacian": "laplacian",
    "pha_coherence": "coherence",
    "fgr_l1": "foreground",
    "fgr_coherence": "foreground_coherence",
}


@pytest.fixture(scope="module", params=recorded("robust_video_matting"))
def fixture(request: pytest.FixtureRequest) -> Any:
    return open_dense(request.param)


@pytest.fixture(scope="module")
def network(fixture: Any) -> Any:
    said = fixture.manifest["config"]
    model = models.variant(f"robust_video_matting_{said['variant']}")(refiner=said["refiner"], ratio=1.0)
    fill(model, from_robust_video_matting.convert(weights(fixture)))
    return model.eval()


def at(network: Any, ratio: float, **parts: Any) -> Any:
    """The same weights at another ratio, perhaps with other parts."""
    model = copy.copy(network)
    model._modules = network._modules | parts
    model.config = changed(network.config, {"ratio": ratio})
    return model


@pytest.fixture(scope="module")
def frames(fixture: Any) -> torch.Tensor:
    said = fixture.manifest["made"]["frames"]
    height, width = said["shape"][3:]
    first = int(re.search(rf"make_unit_image\({height}, {width}, (\d+)\)", said["how"])[1])
    make = dense().make_unit_image
    made = [make(height, width, first)[0]]
    made += [
        np.float32(0.8) * made[0] + np.float32(0.2) * make(height, width, first + t)[0]
        for t in range(1, said["shape"][1])
    ]
    result = np.stack(made)[None]
    assert dense().digest(result) == said["sha256"]
    return torch.from_numpy(result)


@pytest.fixture(scope="module")
def alpha(fixture: Any) -> torch.Tensor:
    said = fixture.manifest["made"]["true_alpha"]
    height, width, seed = (int(n) for n in re.search(r"make_alpha\((\d+), (\d+), (\d+) \+ t\)", said["how"]).groups())
    made = [dense().make_alpha(height, width, seed + t).astype(np.float32) for t in range(said["shape"][1])]
    return torch.from_numpy(np.stack(made))[None, :, None]


def ratios(fixture: Any) -> dict[str, float]:
    """ratio0375 -> 0.375, as recorded."""
    names = {name.split(".")[0] for name in fixture.manifest["raw"] if name.startswith("ratio")}
    return {name: float(re.sub(r"^ratio0(?=\d)", "0.", name).removeprefix("ratio")) for name in names}


def test_parts(fixture, network, frames):
    maps = network.backbone(frames[:, 0])
    for i, found in enumerate(maps, start=1):
        check_raw(fixture, f"backbone.f{i}", found)
    check_raw(fixture, "aspp", network.aspp(maps[3]))
    check_raw(fixture, "segmentation", network.clip(frames).segmentation)


def test_clips(fixture, network, frames):
    for name, ratio in ratios(fixture).items():
        clip = at(network, ratio).clip(frames)
        check_raw(fixture, f"{name}.pha", clip.alpha)
        check_raw(fixture, f"{name}.fgr", clip.foreground)
        for i, remembered in enumerate(clip.state, start=1):
            check_raw(fixture, f"{name}.r{i}", remembered)
    with doubled(network):  # it divides a covariance by a variance, differences of nearly equal numbers: so does ...
        clip = at(network, 0.5, refiner=FastGuidedFilter()).clip(frames.double())
    for name, ours in (("fast.pha", clip.alpha), ("fast.fgr", clip.foreground)):
        error, same = fixture.compare_raw(name, ours.numpy())
        assert same and error < 2e-3, (name, error)  # ... the recording, in float32: 0.00105 of it is rounding


def test_frame_by_frame(fixture, network, frames):
    model, state = at(network, 0.5), None
    for frame in frames.unbind(1):
        raw, state = model.step(ImageBatch(frame, (tuple(frame.shape[2:]),)), state)
    check_raw(fixture, "single.pha", raw.alpha)
    eight = (raw.alpha[0, 0] * 255).round().numpy()
    assert np.abs(eight - fixture.full("single.pha_last")).max() <= 1


@torch.enable_grad()
def test_losses_and_gradients(fixture, network, frames, alpha):
    model = at(network, 0.5)
    network.zero_grad()
    clip = model.clip(frames)
    losses = matting_losses(clip.alpha, clip.foreground, alpha, frames.flip(-1), (alpha > 0).float())
    for theirs, ours in TERMS.items():
        expected = fixture.manifest["losses"][f"matting.{theirs}"]
        assert float(losses[ours].detach()) == pytest.approx(expected, rel=1e-3), theirs
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    for name in fixture.manifest["grads"]:
        error, same = fixture.compare_grad(name, parameters[name].grad.numpy())
        assert same and error < (1e-3 if name.startswith(("project_mat", "refiner.conv.6")) else 5e-2), (name, error)
