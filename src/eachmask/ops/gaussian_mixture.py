"""What colors a region has: a mixture of a few Gaussians, fitted as GrabCut does it.

Rother, Kolmogorov, Blake: "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH 2004: every
pixel belongs to one component, first by k-means, then in turn to the one in which it is most likely.

Shapes: N pixels of C channels, K components.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FLOOR = 4.0
"""Variance that is added to every channel: noise of two gray levels."""
MAX_PIXELS = 20_000
"""So many of a region are looked at."""


class GaussianMixture(NamedTuple):
    """K Gaussians.

    >>> colors = np.array([[0.0], [0.0], [100.0], [100.0]])
    >>> mixture = fit(colors, num=2)
    >>> bool(mixture.log_likelihood(np.array([[0.0]])) > mixture.log_likelihood(np.array([[50.0]])))
    True
    """

    weights: Floats  # (K,) of sum 1
    means: Floats  # (K, C)
    precisions: Floats  # (K, C, C)
    log_dets: Floats  # (K,) of the precisions

    def log_densities(self, pixels: Floats) -> Floats:
        """(N, C) -> (N, K), weighted."""
        apart = pixels[:, None] - self.means
        squared = np.einsum("nkc,kcd,nkd->nk", apart, self.precisions, apart)
        constant = np.log(self.weights) + 0.5 * self.log_dets - 0.5 * pixels.shape[1] * np.log(2 * np.pi)
        return np.asarray(constant - 0.5 * squared)

    def log_likelihood(self, pixels: Floats) -> Floats:
        """(N, C) -> (N,)."""
        return np.asarray(np.logaddexp.reduce(self.log_densities(pixels), axis=1))


def fit(pixels: Floats, num: int = 5, rounds: int = 5) -> GaussianMixture:
    """A mixture of at most ``num`` Gaussians for pixels (N, C), N > 0; the same pixels give the same mixture.

    >>> mixture = fit(np.array([[0.0], [0.0], [100.0], [100.0]]), num=2)
    >>> sorted(mixture.means.ravel().tolist()), mixture.weights.tolist()
    ([0.0, 100.0], [0.5, 0.5])
    """
    from scipy.cluster.vq import kmeans2

    pixels = np.asarray(pixels, np.float64)[:: max(1, len(pixels) // MAX_PIXELS)]
    num = min(num, len(np.unique(pixels, axis=0)))
    _, owner = kmeans2(pixels, num, minit="++", seed=0, iter=10)
    mixture = _gaussians(pixels, owner, num)
    for _ in range(rounds):
        mixture = _gaussians(pixels, mixture.log_densities(pixels).argmax(1), num)
    return mixture


def _gaussians(pixels: Floats, owner: NDArray[np.int64], num: int) -> GaussianMixture:
    groups = [pixels[owner == k] for k in range(num)]
    groups = [group for group in groups if len(group)]
    means = np.stack([group.mean(0) for group in groups])
    floor = FLOOR * np.eye(pixels.shape[1])
    spread = [(g - m).T @ (g - m) / len(g) + floor for g, m in zip(groups, means, strict=True)]
    precisions = np.linalg.inv(np.stack(spread))
    weights = np.array([len(group) for group in groups]) / len(pixels)
    return GaussianMixture(weights, means, precisions, np.linalg.slogdet(precisions)[1])
