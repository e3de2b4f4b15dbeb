"""Mean shift with a flat kernel: every seed climbs to where points are densest; points go to the nearest summit.

Comaniciu, Meer: "Mean Shift: A Robust Approach Toward Feature Space Analysis", PAMI 2002. The clusters are those of
scikit-learn's ``MeanShift`` on the same points (seeds, stop, order, duplicates), computed for many seeds at once by
matrix products. Seeds that meet go on as one, so that even with every point as a seed few are left after a few steps.

Shapes: P points, S seeds, K clusters, D dimensions. Memory is linear in P: distances are computed in chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

MAX_DISTANCES = 4_000_000
"""Distances computed at once: 32 MB."""


class Clusters(NamedTuple):
    """What mean shift found."""

    labels: np.ndarray  # (P,) int64, -1 is an orphan
    centers: np.ndarray  # (K, D) float64, the best supported first


def mean_shift(
    points: np.ndarray,
    bandwidth: float | None = None,
    *,
    bins: bool = True,
    min_bin_count: int = 1,
    orphans: bool = False,
    max_steps: int = 300,
    max_seeds: int | None = None,
) -> Clusters:
    """Cluster points.

    Args:
        points: (P, D), finite.
        bandwidth: radius of the flat kernel, above 0; None: :func:`estimate_bandwidth` of the points.
        bins: start from the cells of a grid of that width that hold at least ``min_bin_count`` points, not from every
            point.
        orphans: points farther than the bandwidth from all centers belong to none (-1).
        max_steps: of every seed.
        max_seeds: the fullest cells only; None: all.

    Raises:
        ValueError: no seed has a point within its bandwidth.

    >>> clusters = mean_shift(np.array([[0.0], [0.2], [5.0], [5.2], [5.4]]), bandwidth=1.0)
    >>> clusters.labels.tolist(), clusters.centers.round(1).tolist()  # the best supported first
    ([1, 1, 0, 0, 0], [[5.2], [0.1]])
    """
    points = np.ascontiguousarray(points, np.float64)
    if not len(points):
        return Clusters(np.zeros(0, np.int64), np.zeros((0, points.shape[1])))
    if bandwidth is None:
        bandwidth = estimate_bandwidth(points)
    seeds = bin_seeds(points, bandwidth, min_bin_count, max_seeds) if bins else points
    centers, support = _climb(points, np.unique(seeds, axis=0), bandwidth, max_steps)
    if not len(centers):
        raise ValueError(f"no point is within {bandwidth} of a seed: choose a larger bandwidth or smaller bins")
    centers = _distinct(centers, support, bandwidth)
    distance, labels = cKDTree(centers).query(points)
    if orphans:
        labels = np.where(distance <= bandwidth, labels, -1)
    return Clusters(labels.astype(np.int64), centers)


def bin_seeds(points: np.ndarray, bandwidth: float, min_count: int = 1, max_seeds: int | None = None) -> np.ndarray:
    """(S, D) centers of grid cells that hold enough points; all points where there are as many cells as points.

    >>> bin_seeds(np.array([[0.1], [0.2], [5.0]]), bandwidth=1.0).tolist()
    [[0.0], [5.0]]
    """
    cells, counts = np.unique(np.round(points / bandwidth), axis=0, return_counts=True)
    if max_seeds is not None and len(cells) > max_seeds:
        fullest = np.argsort(-counts, kind="stable")[:max_seeds]
        cells, counts = cells[fullest], counts[fullest]
    cells = cells[counts >= min_count]
    return points if len(cells) == len(points) else cells.astype(np.float32).astype(np.float64) * bandwidth


def _climb(points: np.ndarray, seeds: np.ndarray, bandwidth: float, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Summits (S, D) and how many points each was the mean of; seeds without a point near them are dropped."""
    done, support = [], []
    for step in range(max_steps + 1):
        means, counts = _means_within(points, seeds, bandwidth)
        alive = counts > 0
        moved = np.linalg.norm(means - seeds, axis=1)
        stop = alive & ((moved <= 1e-3 * bandwidth) | (step == max_steps))
        done.append(means[stop])
        support.append(counts[stop])
        seeds = np.unique(means[alive & ~stop], axis=0)
        if not len(seeds):
            break
    return np.concatenate(done), np.concatenate(support)


def _means_within(points: np.ndarray, seeds: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean (S, D) and the number (S,) of the points within the radius of each seed."""
    sums, counts = np.zeros_like(seeds), np.zeros(len(seeds), np.int64)
    square = (points**2).sum(1)
    rows = max(1, MAX_DISTANCES // len(points))
    for start in range(0, len(seeds), rows):
        some = seeds[start : start + rows]
        distance = square + (some**2).sum(1)[:, None] - 2 * some @ points.T
        near = distance <= radius * radius
        counts[start : start + rows] = near.sum(1)
        sums[start : start + rows] = near.astype(np.float64) @ points
    return sums / np.maximum(counts, 1)[:, None], counts


def _distinct(centers: np.ndarray, support: np.ndarray, bandwidth: float) -> np.ndarray:
    """Centers, best supported first (then by coordinates), without those within the bandwidth of a better one."""
    order = np.lexsort([*centers.T[::-1], support])[::-1]
    centers = centers[order]
    keep = np.ones(len(centers), bool)
    tree = cKDTree(centers)
    for i, center in enumerate(centers):
        if keep[i]:
            keep[tree.query_ball_point(center, bandwidth)] = False
            keep[i] = True
    return centers[keep]


def estimate_bandwidth(points: np.ndarray, quantile: float = 0.3) -> float:
    """The mean distance of a point to the farthest of its nearest neighbors, a share ``quantile`` of all points.

    Args:
        points: (P, D), P above 0; the point itself is its nearest neighbor.
        quantile: 0..1.

    >>> estimate_bandwidth(np.array([[0.0], [1.0], [2.0], [3.0]]), quantile=0.5)
    1.0
    """
    count = max(int(len(points) * quantile), 1)
    tree, total = cKDTree(points), 0.0
    rows = max(1, MAX_DISTANCES // count)
    for start in range(0, len(points), rows):
        total += float(tree.query(points[start : start + rows], k=[count])[0].sum())
    return total / len(points)
