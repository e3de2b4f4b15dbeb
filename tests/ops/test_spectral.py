from __future__ import annotations

import numpy as np
import pytest

from eachmask.ops.spectral import kmeans, spectral_clusters


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a, b]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


def rings() -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([circle * 2, circle * 6]), np.repeat([0, 1], 80)


@pytest.mark.parametrize("group", [kmeans, lambda points, num: spectral_clusters(points, num, 1.0)])
def test_heaps_are_found(group):
    rng = np.random.default_rng(3)
    true = np.repeat(np.arange(5), 30)
    points = rng.normal(0, 0.2, (150, 2)) + np.array([[0, 0], [5, 0], [0, 5], [5, 5], [10, 0]])[true]
    assert same_parts(group(points, 5), true)


def test_rings_are_found_by_what_hangs_together():
    points, true = rings()
    assert same_parts(spectral_clusters(points, 2, 0.5), true)
    assert not same_parts(kmeans(points, 2), true)


@pytest.mark.parametrize("group", [kmeans, lambda points, num: spectral_clusters(points, num, 1.0)])
def test_few_points_and_equal_ones(group):
    assert group(np.zeros((1, 3)), 4).tolist() == [0]
    assert len(group(np.zeros((6, 3)), 2)) == 6
    assert group(np.ones((4, 2)), 1).tolist() == [0] * 4
    points = np.random.default_rng(0).random((40, 3))
    assert np.array_equal(group(points, 6), group(points, 6)), "the same every time"
