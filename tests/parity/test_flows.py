"""Cellpose's flows, how they are followed, masks, losses and network against recorded ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from parity.dense import dense, made, open_dense
from parity.recorded import recorded, weights

from eachmask import models
from eachmask.models.proposal_free.flows import flow_losses
from eachmask.ops.flows import flow_errors, flows_of, follow, masks_of_flows, object_centers, object_extents
from eachmask.weights.from_cellpose import convert
from eachmask.weights.renaming import fill

SCENES = ("clean", "noisy", "apart")
WORDS = {
    "niter": "steps",
    "cellprob_threshold": "logit_threshold",
    "flow_threshold": "max_flow_error",
    "min_size": "min_area",
}


@pytest.mark.parametrize("stem", recorded("cellpose_dynamics"))
def test_flows_of_masks(stem):
    fixture = open_dense(stem)
    for name, suffix in (("instances", ""), ("instances_apart", "_apart")):
        ids = made(fixture, name)
        assert np.array_equal(object_centers(ids), fixture.full(f"centers{suffix}"))
        assert np.array_equal(object_extents(ids), fixture.full(f"ext{suffix}"))
        assert np.abs(flows_of(ids) - fixture.full(f"flows{suffix}")).max() < 1e-4
    error, same_shape = fixture.compare_raw("flows_niter20", flows_of(made(fixture, "instances"), 20))
    assert same_shape and error < 1e-3


@pytest.mark.parametrize("stem", recorded("cellpose_dynamics"))
def test_followed_positions_and_masks(stem):
    fixture = open_dense(stem)
    for scene in SCENES:
        flow, logits = fixture.full(f"{scene}.dP"), fixture.full(f"{scene}.cellprob")
        start = np.stack(np.nonzero(logits > 0))
        for steps in (int(n.rsplit(".p", 1)[1]) for n in fixture.manifest["raw"] if n.startswith(f"{scene}.p")):
            ends = follow(flow * (logits > 0) / 5, start, steps)
            error, same_shape = fixture.compare_raw(f"{scene}.p{steps}", ends)
            limit = 0.05 if scene == "noisy" and steps >= 200 else 1e-3  # 0.009 without fused products
            assert same_shape and error < limit, (scene, steps)
        for name, info in fixture.manifest["full"].items():
            if not name.startswith(f"{scene}.masks"):
                continue
            said = dict(re.findall(r"(\w+)=([-\d.]+)", info["note"]))
            options = {WORDS[key]: float(value) for key, value in said.items()}
            options["steps"] = int(options.get("steps", fixture.manifest["config"]["niter"]))
            ours, theirs = masks_of_flows(flow, logits, **options), fixture.full(name)
            assert np.array_equal(ours, theirs), name
        masks = fixture.full(f"{scene}.masks.noflow").astype(np.int32)
        assert np.allclose(flow_errors(masks, flow), fixture.full(f"{scene}.flow_error"), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stem", recorded("cellpose_dynamics"))
def test_losses(stem):
    fixture = open_dense(stem)
    ids, predicted = made(fixture, "instances"), torch.from_numpy(fixture.full("loss.pred")).double()
    flow, logits = predicted[None, :2], predicted[None, 2]
    true = torch.from_numpy(flows_of(ids)).double()[None]
    inside = torch.from_numpy((ids > 0).astype(float))[None]
    ours = flow_losses(flow, logits, true, inside, torch.ones_like(inside))
    assert float(ours["flow"]) == pytest.approx(fixture.manifest["losses"]["train_flow"], rel=1e-3)
    assert float(ours["foreground"]) == pytest.approx(fixture.manifest["losses"]["train_cellprob"], rel=1e-3)


@pytest.mark.parametrize("stem", recorded("cellpose3_cpnet"))
@torch.enable_grad()
def test_network(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["config"]
    model = models.variant("cellpose_cyto3")(channels=tuple(said["nbase"])).eval()
    fill(model, convert(weights(fixture)))
    network = model.network
    how = fixture.manifest["made"]["input"]["how"].removeprefix("deterministic.").split(" (")[0]
    image = eval(how.replace("make_input", "make"), {"make": __import__("deterministic").make_input})
    assert dense().digest(image) == fixture.manifest["made"]["input"]["sha256"]
    maps = network.encode(torch.from_numpy(np.ascontiguousarray(image)))
    style = network.style(maps)
    output = network.decode(maps, style)
    for name, ours in {**{f"down.{i}": m for i, m in enumerate(maps)}, "output": output, "style": style}.items():
        error, same_shape = fixture.compare_raw(name, ours.detach().numpy())
        assert same_shape and error < 1e-3, name
    ids = made(fixture, "instances")
    noise = np.random.RandomState(14).standard_normal((1, 2, *ids.shape)).astype(np.float32)
    inside = torch.from_numpy((ids > 0).astype(np.float32))[None]
    true = torch.from_numpy(noise) * inside
    losses = flow_losses(output[:, :2], output[:, 2], true, inside, torch.ones_like(inside))
    assert float(losses["flow"].detach()) == pytest.approx(fixture.manifest["losses"]["flow"], rel=1e-3)
    assert float(losses["foreground"].detach()) == pytest.approx(fixture.manifest["losses"]["cellprob"], rel=1e-3)
    sum(losses.values()).backward()
    ours = dict(model.named_parameters())
    for name in fixture.manifest["grads"]:
        (own,) = convert({name: torch.zeros(1)})
        error, same_shape = fixture.compare_grad(name, ours[own].grad.numpy())
        assert same_shape and error < (1e-3 if name.startswith("output") else 5e-2), name
