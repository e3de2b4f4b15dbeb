from __future__ import annotations

import numpy as np
import pytest

from eachmask.ops.multicut import contract_edges, kernighan_lin, multicut, multicut_energy, optimal_multicut


def graph(seed: int, num: int, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """A graph with most of all edges."""
    rng = np.random.default_rng(seed)
    edges = np.array([(i, j) for i in range(num) for j in range(i + 1, num) if rng.random() < 0.8])
    return edges, rng.normal(bias, 1, len(edges))


@pytest.mark.parametrize("num", [7, 9])
@pytest.mark.parametrize("seed", range(6))
def test_small_graphs_are_cut_at_their_optimum_or_near_it(seed, num):
    edges, weights = graph(seed, num, 0.1)
    best = multicut_energy(edges, weights, optimal_multicut(edges, weights, num))
    found = multicut_energy(edges, weights, multicut(edges, weights, num))
    greedy = multicut_energy(edges, weights, contract_edges(edges, weights, num))
    assert best - 1e-9 <= found <= greedy + 1e-9
    assert found == pytest.approx(best)


def test_moves_never_lose():
    for seed in range(5):
        edges, weights = graph(seed, 20, 0.0)
        labels = np.random.default_rng(seed).integers(0, 5, 20)
        before = multicut_energy(edges, weights, labels)
        after = kernighan_lin(edges, weights, labels)
        assert multicut_energy(edges, weights, after) <= before + 1e-9


def test_zero_edges_are_contracted_and_parallel_ones_added_up():
    edges = np.array([[0, 1], [1, 2], [1, 2]])
    assert contract_edges(edges, np.array([0.0, 1.0, -3.0]), 3).tolist() == [0, 0, 1]
    assert multicut(np.zeros((0, 2), int), np.zeros(0), 3).tolist() == [0, 1, 2]


def test_too_many_partitions_are_refused():
    with pytest.raises(ValueError, match="11 nodes"):
        optimal_multicut(np.array([[0, 1]]), np.ones(1), 11)
