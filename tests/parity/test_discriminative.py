"""The discriminative loss and its gradients, and mean shift, against what was recorded of others' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import made, open_dense
from parity.recorded import recorded

from eachmask.ops.discriminative import discriminative_terms
from eachmask.ops.mean_shift import estimate_bandwidth, mean_shift

AVERAGES = {"repo": "pixels", "paper": "objects"}


@pytest.mark.parametrize("stem", recorded("discriminative_loss"))
@torch.enable_grad()
def test_terms_and_gradients(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["config"]
    numbers = sorted(name.split(".")[1] for name in fixture.manifest["made"] if name.startswith("instances"))
    ids = [torch.from_numpy(made(fixture, f"instances.{i}")).flatten() for i in numbers]
    maps = torch.from_numpy(np.stack([made(fixture, f"embeddings.{i}") for i in numbers])).double()
    for setting, (delta_pull, delta_push, norm) in said["settings"].items():
        for version, average in AVERAGES.items():
            leaf = maps.clone().requires_grad_()
            rows = [
                discriminative_terms(m.flatten(1).T, i, delta_pull, delta_push, norm, average)
                for m, i in zip(leaf, ids, strict=True)
            ]
            pull, push, regularization = (torch.stack(term).mean() for term in zip(*rows, strict=True))
            total = said["alpha"] * pull + said["beta"] * push + said["gamma"] * regularization
            total.backward()
            ours = {"var": pull, "dist": push, "reg": regularization, "total": total}
            for name, value in ours.items():
                theirs = fixture.manifest["losses"][f"{version}.{setting}.{name}"]
                assert float(value.detach()) == pytest.approx(theirs, rel=1e-6, abs=1e-12)
            error, same_shape = fixture.compare_grad(f"{version}.{setting}.embeddings", leaf.grad.numpy())
            assert same_shape and error < 1e-3


@pytest.mark.parametrize("stem", recorded("mean_shift_sklearn"))
def test_mean_shift_makes_the_same_clusters(stem):
    fixture = open_dense(stem)
    instances, embeddings = made(fixture, "instances"), made(fixture, "embeddings")
    points = embeddings[:, instances > 0].T.astype(np.float64)
    for name, run in fixture.manifest["config"]["runs"].items():
        ours = mean_shift(
            points,
            run["bandwidth"],
            bins=run.get("bin_seeding", False),
            min_bin_count=run.get("min_bin_freq", 1),
            orphans=not run.get("cluster_all", True),
        )
        labels, centers = fixture.full(f"{name}.labels"), fixture.full(f"{name}.centers")
        pairs = np.unique(np.stack([ours.labels, labels]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1], "equal up to their numbers"
        assert ((ours.labels == -1) == (labels == -1)).all()
        assert np.allclose(ours.centers[np.lexsort(ours.centers.T)], centers[np.lexsort(centers.T)], atol=1e-9)
    for name, theirs in fixture.manifest["losses"].items():
        quantile = float(name.removeprefix("estimate_bandwidth."))
        assert estimate_bandwidth(points, quantile) == pytest.approx(theirs, rel=1e-6)
