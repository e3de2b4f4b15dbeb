"""SpatialEmbeddings: terms, gradients, clusters and the branched ERFNet against recorded ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import made, open_dense
from parity.recorded import check_raw, recorded, weights

from eachmask.models.proposal_free.erfnet import ERFNet
from eachmask.ops.spatial_embedding import coordinates, spatial_clusters, spatial_terms
from eachmask.weights.from_spatial_embeddings import convert
from eachmask.weights.renaming import fill


def grid_of(fixture):
    return tuple(int(side) for side in fixture.manifest["config"]["grid"].split(" x "))


@pytest.mark.parametrize("stem", recorded("spatial_embeddings"))
@torch.enable_grad()
def test_terms_and_gradients(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["config"]
    if "grid" not in said:
        pytest.skip("the network's recording")
    ids = torch.from_numpy(made(fixture, "instances"))
    places = coordinates(*ids.shape, grid_of(fixture))
    for case in sorted({name.rsplit(".", 1)[0] for name in fixture.manifest["losses"]}):
        kind, center, weight = case.split(".")
        leaf = torch.from_numpy(made(fixture, f"prediction.{kind}")).requires_grad_()
        seeds = leaf[-1:].sigmoid()
        terms = spatial_terms(
            leaf[:2].tanh() + places,
            leaf[2:-1],
            seeds,
            places,
            ids,
            torch.ones_like(ids, dtype=torch.bool),
            to_center=center == "center",
            foreground_weight=float(weight.removeprefix("fw")),
        )
        total = said["w_inst"] * terms.instance + said["w_var"] * terms.variance + said["w_seed"] * terms.seed
        total.backward()
        ours = {"inst": terms.instance, "var": terms.variance, "seed": terms.seed, "total": total}
        for name, value in ours.items():
            assert float(value.detach()) == pytest.approx(fixture.manifest["losses"][f"{case}.{name}"], rel=1e-3)
        error, same_shape = fixture.compare_grad(f"{case}.prediction", leaf.grad[None].numpy())
        assert same_shape and error < 1e-3


@pytest.mark.parametrize("stem", recorded("spatial_embeddings"))
def test_clusters(stem):
    fixture = open_dense(stem)
    if "grid" not in fixture.manifest["config"]:
        pytest.skip("the network's recording")
    for name in fixture.manifest["full"]:
        kind, what = name.split(".")
        if not what.startswith("cluster") or what == "cluster_gt":
            continue
        prediction = torch.from_numpy(made(fixture, f"prediction.{kind}"))
        places = coordinates(*prediction.shape[1:], grid_of(fixture))
        found, scores = spatial_clusters(
            (prediction[:2].tanh() + places).numpy(),
            prediction[2:-1].numpy(),
            prediction[-1].sigmoid().numpy(),
            threshold=float(f"0.{what.removeprefix('cluster_t0')}") if "_t" in what else 0.9,
            min_pixels=fixture.manifest["config"]["min_pixels"],
        )
        assert (found != fixture.full(name)).mean() <= 1e-3, name
        if what == "cluster":
            assert np.allclose(scores, fixture.full(f"{kind}.scores"), atol=1e-5)


@pytest.mark.parametrize("stem", recorded("spatial_embeddings_erfnet"))
@torch.enable_grad()
def test_network(stem):
    fixture = open_dense(stem)
    network = ERFNet(fixture.manifest["config"]["num_classes"]).eval()
    state = weights(fixture)
    fill(network, convert(state))
    image = torch.from_numpy(fixture.input())
    features = network.encoder(image)
    check_raw(fixture, "encoder", features)
    head = [state[f"encoder.output_conv.{part}"] for part in ("weight", "bias")]
    check_raw(fixture, "encoder_only", torch.nn.functional.conv2d(features, *head))
    output = network(image)
    check_raw(fixture, "output", output)
    loss = (output**2).mean() + output[:, :, ::3].mean()
    assert float(loss.detach()) == pytest.approx(fixture.manifest["losses"]["probe"], rel=1e-3)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, info in fixture.manifest["grads"].items():
        if not info["std"]:  # of one value
            assert float(gradients[name].mean()) == pytest.approx(info["mean"], rel=1e-3)
            continue
        error, same_shape = fixture.compare_grad(name, gradients[name].numpy())
        assert same_shape and error < (1e-3 if "output_conv" in name else 5e-2), name
