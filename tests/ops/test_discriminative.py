"""The discriminative loss, the greedy neighbor rule and mean shift, on points whose clusters are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask.ops import mean_shift as module
from eachmask.ops.discriminative import discriminative_terms, greedy_clusters
from eachmask.ops.mean_shift import mean_shift


def balls(rng: np.random.Generator, radius: float, apart: float, dims: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Points of six balls on a line of centers, shuffled, and whose they are."""
    ids = rng.integers(0, 6, 300)
    offsets = rng.normal(size=(300, dims))
    offsets *= radius * rng.random((300, 1)) / np.linalg.norm(offsets, axis=1, keepdims=True)
    return offsets + apart * ids[:, None] * np.eye(dims)[0], ids


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a, b]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_the_greedy_rule_is_exact_where_the_hinges_are_zero():
    points, ids = balls(np.random.default_rng(0), radius=0.5, apart=3.0)
    terms = discriminative_terms(torch.from_numpy(points), torch.from_numpy(ids + 1), delta_pull=0.55, delta_push=1.4)
    assert float(terms.pull) == float(terms.push) == 0
    assert same_partition(greedy_clusters(points, 1.1), ids)


def test_hinges_are_those_of_the_formula():
    """Two objects of two points each, in one dimension: means 0 and 2, every point 1 from its mean."""
    points = torch.tensor([[-1.0], [1.0], [1.0], [3.0], [9.0]])
    ids = torch.tensor([1, 1, 2, 2, 0])
    pull, push, regularization = discriminative_terms(points, ids, delta_pull=0.5, delta_push=1.5)
    assert float(pull) == pytest.approx(0.25) and float(push) == pytest.approx(1.0)
    assert float(regularization) == pytest.approx(1.0)


def test_without_objects_all_terms_are_zero_and_have_gradients():
    points = torch.randn(7, 2, requires_grad=True)
    sum(discriminative_terms(points, torch.zeros(7, dtype=torch.long))).backward()
    assert torch.equal(points.grad, torch.zeros_like(points))


@pytest.mark.parametrize("bins", [True, False])
def test_mean_shift_finds_the_balls(bins, monkeypatch):
    points, ids = balls(np.random.default_rng(1), radius=0.5, apart=4.0)
    whole = mean_shift(points, 1.0, bins=bins)
    assert len(whole.centers) == 6 and same_partition(whole.labels, ids)
    monkeypatch.setattr(module, "MAX_DISTANCES", 1000)
    in_chunks = mean_shift(points, 1.0, bins=bins)
    assert np.array_equal(in_chunks.labels, whole.labels)


def test_far_points_may_be_orphans():
    points = np.concatenate([np.zeros((20, 2)), [[9.0, 9.0]]])
    assert mean_shift(points, 1.0, min_bin_count=2, orphans=True).labels.tolist() == [0] * 20 + [-1]
    assert mean_shift(points, 1.0, min_bin_count=2).labels[-1] == 0


def test_no_points_no_clusters():
    found = mean_shift(np.zeros((0, 4)), 1.0)
    assert found.labels.shape == (0,) and found.centers.shape == (0, 4)
