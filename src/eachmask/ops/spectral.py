"""Points in a known number of groups: k-means, and spectral clustering.

Ng, Jordan, Weiss: "On Spectral Clustering: Analysis and an Algorithm", NIPS 2001: points are rows of the K largest
eigenvectors of the normalized affinity D^-1/2 A D^-1/2, scaled to length 1, and these are grouped by k-means.

Shapes: P points, D dimensions, K groups.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial.distance import cdist


def kmeans(points: np.ndarray, num: int, seed: int = 0, starts: int = 4) -> np.ndarray:
    """(P,) groups 0 ... num - 1, of the start (k-means++) with the least squared distances; a group may be empty.

    Args:
        points: (P, D), P >= 1; num: 1 or more, at most P is made of it.

    >>> groups = kmeans(np.array([[0.0], [0.1], [5.0], [5.1]]), 2)
    >>> bool(groups[0] == groups[1] != groups[2] == groups[3])
    True
    """
    from scipy.cluster.vq import kmeans2

    points, rng = np.asarray(points, np.float64), np.random.default_rng(seed)
    best, least = np.zeros(len(points), np.int64), np.inf
    for _ in range(starts if num > 1 else 0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty groups
            centers, labels = kmeans2(points, min(num, len(points)), minit="++", seed=rng)
        total = float(((points - centers[labels]) ** 2).sum())
        if total < least:
            best, least = labels.astype(np.int64), total
    return best


def spectral_clusters(points: np.ndarray, num: int, scale: float, seed: int = 0) -> np.ndarray:
    """(P,) groups 0 ... num - 1; memory and time grow with P^2 and P^2 K.

    Args:
        points: (P, D), P >= 1; num: 1 or more, at most P is made of it.
        scale: of the Gaussian that makes distances affinities, in the points' unit.

    >>> groups = spectral_clusters(np.array([[0.0], [0.1], [5.0], [5.1]]), 2, scale=1.0)
    >>> bool(groups[0] == groups[1] != groups[2] == groups[3])
    True
    """
    from scipy.linalg import eigh

    num = min(num, len(points))
    if num <= 1:
        return np.zeros(len(points), np.int64)
    affinity = np.exp(-cdist(points, points, "sqeuclidean") / (2 * scale * scale))
    root = 1 / np.sqrt(affinity.sum(1))
    last = len(points) - 1
    _, vectors = eigh(root[:, None] * affinity * root, subset_by_index=(last - num + 1, last))
    return kmeans(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), num, seed)
