"""Minimum cuts, mixtures of Gaussians and normalized cuts on graphs that are small enough to try everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from eachmask.models.promptable.graph_cut import contrast
from eachmask.ops.gaussian_mixture import fit
from eachmask.ops.min_cut import cheapest_labels, energy, grid_edges, min_cut
from eachmask.ops.normalized_cut import cut_cost, normalized_cuts, region_graph


def test_pairs_of_a_grid():
    edges, apart = grid_edges((3, 4))
    assert len(edges) == 3 * 3 + 2 * 4 + 2 * 2 * 3 and len({tuple(sorted(e)) for e in edges.tolist()}) == len(edges)
    y, x = np.divmod(edges, 4)
    assert apart == pytest.approx(np.hypot(y[:, 0] - y[:, 1], x[:, 0] - x[:, 1]))


@pytest.mark.parametrize("seed", range(4))
def test_no_labeling_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    size = (3, 4)
    edges, apart = grid_edges(size)
    costs, penalties = rng.uniform(0, 3, (12, 2)).round(3), (rng.uniform(0, 1, len(edges)) / apart).round(3)
    least = min(energy(np.array(bits), costs, edges, penalties) for bits in itertools.product([False, True], repeat=12))
    found = cheapest_labels(costs, edges, penalties)
    assert energy(found, costs, edges, penalties) == pytest.approx(least, abs=1e-6)


def test_what_is_forbidden_is_not_chosen():
    edges, _ = grid_edges((1, 5))
    costs = np.zeros((5, 2))
    costs[0, 0], costs[4, 1] = np.inf, np.inf
    penalties = np.array([5.0, 5.0, 1.0, 5.0])
    assert cheapest_labels(costs, edges, penalties).tolist() == [True, True, True, False, False]


def test_flow_of_a_graph_by_hand():
    cut = min_cut(np.array([5, 0]), np.array([0, 4]), np.array([[0, 1]]), np.array([3]))
    assert cut.flow == 3 and cut.source_side.tolist() == [True, False]


def test_like_neighbors_are_dear_to_part():
    pixels = np.array([[10.0], [10.0], [50.0]])
    assert contrast(pixels, np.array([[0, 1], [1, 2]])).tolist() == pytest.approx([1, np.exp(-1)])
    assert contrast(pixels[:2], np.array([[0, 1]])).tolist() == [1]


def test_a_mixture_finds_its_colors():
    rng = np.random.default_rng(0)
    reds, blues = rng.normal([200, 20, 20], 5, (300, 3)), rng.normal([20, 20, 200], 5, (100, 3))
    mixture = fit(np.concatenate([reds, blues]), num=2)
    order = np.argsort(-mixture.weights)
    assert mixture.weights[order] == pytest.approx([0.75, 0.25])
    assert mixture.means[order] == pytest.approx(np.array([[200, 20, 20], [20, 20, 200]]), abs=2)
    likely = mixture.log_likelihood(np.array([[200.0, 20, 20], [20, 20, 200], [20, 200, 20]]))
    assert likely[0] > likely[1] > likely[2] + 100
    one = fit(np.full((4, 3), 7.0))
    assert one.weights.tolist() == [1] and one.means.tolist() == [[7, 7, 7]]


def test_two_groups_are_parted_where_the_link_is_weak():
    pairs = np.array([[0, 1], [1, 2], [0, 2], [2, 3], [3, 4], [4, 5], [3, 5]])
    weights = np.array([1, 1, 1, 1e-3, 1, 1, 1.0])
    labels = normalized_cuts(6, pairs, weights, threshold=0.01)
    assert len(set(labels)) == 2 and len(set(labels[:3])) == len(set(labels[3:])) == 1
    assert len(set(normalized_cuts(6, pairs, np.ones(7), threshold=0.01))) == 1
    links = np.eye(6)
    links[pairs[:, 0], pairs[:, 1]] = links[pairs[:, 1], pairs[:, 0]] = weights
    side = np.arange(6) < 3
    assert cut_cost(links, side) == pytest.approx(2 * 1e-3 / (3 + 6 + 1e-3))
    assert cut_cost(links, side | True) == np.inf


def test_regions_are_linked_where_they_touch():
    image = np.zeros((2, 4, 1))
    image[:, 2:] = 10
    regions = np.array([[0, 0, 1, 2], [0, 0, 1, 2]])
    pairs, weights = region_graph(image, regions, sigma=100)
    assert pairs.tolist() == [[0, 1], [1, 2]] and weights.tolist() == pytest.approx([np.exp(-1), 1])
