"""Graph cut: scribbles on the object and beside it, and the cheapest boundary between them.

Boykov, Jolly: "Interactive Graph Cuts for Optimal Boundary and Region Segmentation of Objects in N-D Images", ICCV
2001; colors as mixtures of Gaussians as in GrabCut (Rother et al., SIGGRAPH 2004).

The idea: every pixel costs what it is unlikely to be, by the colors that were scribbled on; neighbors of different
labels cost the more, the more alike they are; marked pixels have no choice. The labeling that costs least is found
exactly, as a minimum cut (:mod:`eachmask.ops.min_cut`).

    E(y) = sum_i -log p(x_i | y_i) + lambda sum_ij [y_i != y_j] exp(-beta |x_i - x_j|^2) / dist(i, j)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eachmask.models.promptable.without_learning import BACKGROUND, OBJECT, BrushConfig, Classic, Marks
from eachmask.ops.gaussian_mixture import fit
from eachmask.ops.min_cut import cheapest_labels, grid_edges

MAX_UNARY = 50.0
"""A color that was never marked says no more than this."""


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    brush: BrushConfig = BrushConfig(max_side=240)
    components: int = 5
    """Gaussians of each mixture."""
    smoothness: float = 50.0
    """Lambda: what one pair of like neighbors costs if it is parted."""


class GraphCut(Classic):
    """Boykov and Jolly's energy, at its minimum."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.brush)
        self.config = config

    def cut(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[np.bool_]:
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
        edges, apart = grid_edges((image.shape[0], image.shape[1]))
        penalties = self.config.smoothness * contrast(pixels, edges) / apart
        costs = self.costs(pixels, marks)
        return cheapest_labels(costs, edges, penalties).reshape(image.shape[:2])

    def costs(self, pixels: NDArray[np.float64], marks: Marks) -> NDArray[np.float64]:
        """(N, 2): of being background, and of being the object; infinite where the marks say otherwise."""
        seeds = marks.seeds.ravel()
        known = (seeds == BACKGROUND, (seeds == OBJECT) | (marks.probable.ravel() & (seeds == 0)))
        costs: NDArray[np.float64] = np.zeros((len(pixels), 2))
        for label, chosen in enumerate(known):
            if chosen.any():
                costs[:, label] = -fit(pixels[chosen], self.config.components).log_likelihood(pixels)
        costs = np.asarray(np.minimum(costs - costs.min(1, keepdims=True), MAX_UNARY))
        costs[seeds == BACKGROUND, 1] = np.inf
        costs[seeds == OBJECT, 0] = np.inf
        return costs


def contrast(pixels: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """(E,) in 0..1: exp(-beta d^2) of the neighbors' distance, beta being 1 / (2 mean d^2)."""
    squared = ((pixels[edges[:, 0]] - pixels[edges[:, 1]]) ** 2).sum(1)
    mean = float(squared.mean()) if len(squared) else 0.0
    return np.asarray(np.exp(-squared / (2 * mean))) if mean else np.ones(len(edges))


def build(config: Config) -> GraphCut:
    """With these settings."""
    return GraphCut(config)
