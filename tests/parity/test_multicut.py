"""Multicut's energies: never above what was recorded of the same method, never below the optimum."""

from __future__ import annotations

import numpy as np
import pytest
from parity.dense import dense, open_dense
from parity.recorded import recorded

from eachmask.ops.multicut import contract_edges, kernighan_lin, multicut, multicut_energy


@pytest.mark.parametrize("stem", recorded("multicut_andres"))
def test_energies(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["losses"]
    for name, graph in fixture.manifest["config"].items():
        size = graph["size"] if graph["kind"] == "complete" else tuple(graph["size"])
        edges, weights = dense().make_edges(graph["kind"], size, seed=graph["seed"], bias=graph["bias"])
        num = int(edges.max()) + 1
        greedy = contract_edges(edges, weights, num)
        ours = {
            "gaec": greedy,
            "kl": kernighan_lin(edges, weights, np.arange(num)),
            "gaec_kl": kernighan_lin(edges, weights, greedy),
        }
        optimum = said[f"{name}.optimum.energy"]
        for method, labels in ours.items():
            energy = multicut_energy(edges, weights, labels)
            assert optimum - 1e-9 <= energy <= said[f"{name}.{method}.energy"] + 1e-9, (name, method)
        best = multicut_energy(edges, weights, multicut(edges, weights, num))
        assert optimum - 1e-9 <= best <= min(said[f"{name}.{method}.energy"] for method in ours) + 1e-9
        recorded_cut = fixture.full(f"{name}.gaec.cut").astype(bool)
        assert np.array_equal(greedy[edges[:, 0]] != greedy[edges[:, 1]], recorded_cut)
