"""Normalized cuts of a graph of regions.

Shi, Malik: "Normalized Cuts and Image Segmentation", TPAMI 2000: a graph is parted where the links that are cut weigh
least, measured against all links of each part; relaxed, that is the second eigenvector of (D - W) x = lambda D x.

As scikit-image has it, the vector is thresholded at a few places and the best of these is taken, regions link to
themselves with weight 1, and parts are parted again until that costs more than a threshold.

Shapes: R regions, E links.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def region_graph(
    image: NDArray[Any], regions: NDArray[np.int64], sigma: float = 255.0
) -> tuple[NDArray[np.int64], Floats]:
    """Links between touching regions, the stronger the more alike their mean colors: exp(-d^2 / sigma).

    Args:
        image: (H, W, C); regions: (H, W) of 0..R-1, each of which occurs.

    Returns:
        pairs (E, 2), the smaller number first, and weights (E,).

    >>> image = np.array([[[0.0], [0.0], [255.0]]])
    >>> pairs, weights = region_graph(image, np.array([[0, 1, 2]]))
    >>> pairs.tolist(), weights.round(3).tolist()
    ([[0, 1], [1, 2]], [1.0, 0.0])
    """
    num = int(regions.max()) + 1
    area = np.bincount(regions.ravel(), minlength=num)
    planes = image.reshape(-1, image.shape[-1]).T.astype(np.float64)
    means = np.stack([np.bincount(regions.ravel(), plane, minlength=num) / area for plane in planes], 1)
    shifted = [
        (regions[:, :-1], regions[:, 1:]),
        (regions[:-1], regions[1:]),
        (regions[:-1, :-1], regions[1:, 1:]),
        (regions[:-1, 1:], regions[1:, :-1]),
    ]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in shifted])
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    squared = ((means[pairs[:, 0]] - means[pairs[:, 1]]) ** 2).sum(1)
    return pairs, np.exp(-squared / sigma)


def normalized_cuts(
    num: int, pairs: NDArray[np.int64], weights: Floats, threshold: float = 0.001, num_cuts: int = 10
) -> NDArray[np.int64]:
    """(R,) which part each of ``num`` regions belongs to, 0, 1, ...

    Args:
        pairs: (E, 2) of regions; weights: (E,).
        threshold: a cut that costs as much or more is not made.
        num_cuts: places at which the eigenvector is thresholded.

    >>> pairs = np.array([[0, 1], [1, 2], [2, 3]])
    >>> normalized_cuts(4, pairs, np.array([1.0, 1e-6, 1.0])).tolist()
    [0, 0, 1, 1]
    """
    links = np.eye(num)
    links[pairs[:, 0], pairs[:, 1]] = links[pairs[:, 1], pairs[:, 0]] = weights
    labels = np.zeros(num, np.int64)
    waiting, done = [np.arange(num)], 0
    while waiting:
        part = waiting.pop()
        one_side, cost = best_cut(links[np.ix_(part, part)], num_cuts)
        if cost < threshold:
            waiting += [part[~one_side], part[one_side]]
        else:
            labels[part] = done
            done += 1
    return labels


def best_cut(links: Floats, num_cuts: int) -> tuple[NDArray[np.bool_], float]:
    """The best two parts (R,) that a threshold of the second eigenvector makes, and their normalized cut.

    >>> links = np.eye(4)
    >>> links[[0, 1, 2, 3], [1, 0, 3, 2]] = 1.0
    >>> side, cost = best_cut(links + 1e-3, num_cuts=10)
    >>> bool(side[0] == side[1] != side[2] == side[3]), cost < 0.01
    (True, True)
    """
    one_side, cost = np.zeros(len(links), bool), np.inf
    if len(links) < 3:
        return one_side, cost
    degree = links.sum(1)
    scale = 1 / np.sqrt(degree)
    _, vectors = np.linalg.eigh(scale[:, None] * (np.diag(degree) - links) * scale)
    second = vectors[:, 1]
    low, high = float(second.min()), float(second.max())
    if np.allclose(low, high):
        return one_side, cost
    for place in np.linspace(low, high, num_cuts, endpoint=False):
        side = second > place
        value = cut_cost(links, side)
        if value < cost:
            one_side, cost = side, value
    return one_side, cost


def cut_cost(links: Floats, side: NDArray[np.bool_]) -> float:
    """cut / assoc + cut / assoc of two parts; infinite where one is empty.

    >>> links = np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> round(cut_cost(links, np.array([True, False])), 3)  # 0.5 / 1.5 twice
    0.667
    """
    cut = float(links[side][:, ~side].sum())
    a, b = float(links[side].sum()), float(links[~side].sum())
    return cut / a + cut / b if a and b else float("inf")
