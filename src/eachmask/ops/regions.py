"""Regions of an image: superpixels between the ridges of an edge map, and the borders that they share.

Superpixels are the basins of a watershed (Beucher, Lantuejoul 1979) that starts from the minima of the edge strength;
systems that cut a graph (multicut) or merge a tree begin with them instead of pixels.

Shapes: (H, W) the image, N regions, M pairs of regions that touch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

MAX_SMOOTHINGS = 4


class Borders(NamedTuple):
    """Between regions that touch by a side of a pixel."""

    edges: np.ndarray  # (M, 2) int64 regions from 0, the smaller first
    strengths: np.ndarray  # (M,) mean edge strength along the border
    lengths: np.ndarray  # (M,) px


def superpixels(
    strength: np.ndarray, mask: np.ndarray | None = None, sigma: float = 1.0, max_regions: int = 1000
) -> np.ndarray:
    """(H, W) int32 regions 1..N, 0 outside the mask: basins between the ridges.

    Args:
        strength: (H, W) edge strength, 0..1.
        mask: (H, W) bool, what is to be divided; None: all.
        sigma: px of the Gaussian before minima are looked for; doubled a few times while there are more than
            ``max_regions``.

    >>> strength = np.zeros((5, 9))
    >>> strength[:, 4] = 1.0
    >>> regions = superpixels(strength, sigma=0.5)
    >>> int(regions.max()), bool((regions[:, 0] != regions[:, -1]).all())
    (2, True)
    """
    from skimage.morphology import local_minima
    from skimage.segmentation import watershed

    mask = np.ones(strength.shape, bool) if mask is None else mask
    for smoothing in range(MAX_SMOOTHINGS):
        smooth = ndimage.gaussian_filter(strength.astype(np.float64), sigma * 2**smoothing)
        walled = np.pad(np.where(mask, smooth, np.inf), 1, constant_values=np.inf)
        minima = local_minima(walled, connectivity=1)  # type: ignore[no-untyped-call]
        markers, num = ndimage.label(minima[1:-1, 1:-1] & mask)
        if num <= max_regions:
            break
    result: np.ndarray = watershed(strength, markers, mask=mask)  # type: ignore[no-untyped-call]
    return result.astype(np.int32)


def largest_regions(regions: np.ndarray, strength: np.ndarray, most: int) -> np.ndarray:
    """(H, W) int32 regions 1..N: the ``most`` largest, flooded over the others; where there are no more, as they are.

    Every speck of a mask is a region of its own, however smooth the edges: a noisy mask would have thousands.

    Args:
        regions: (H, W) 1..N; strength: (H, W) edge strength, 0..1.

    >>> largest_regions(np.array([[1, 1, 2, 3, 3]]), np.zeros((1, 5)), most=2).tolist()
    [[1, 1, 2, 2, 2]]
    """
    from skimage.segmentation import watershed

    area = np.bincount(regions.ravel())
    if len(area) - 1 <= most:
        return regions
    area[0] = 0
    kept = np.sort(np.argsort(-area, kind="stable")[:most])
    numbers = np.zeros(len(area), np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    result: np.ndarray = watershed(strength, numbers[regions])  # type: ignore[no-untyped-call]
    return result.astype(np.int32)


def region_borders(regions: np.ndarray, strength: np.ndarray) -> Borders:
    """Which regions touch, and how strong the edge between them is: of two pixels on both sides, the stronger counts.

    Args:
        regions: (H, W) 1..N, 0 belongs to none; strength: (H, W).

    >>> borders = region_borders(np.array([[1, 1, 2], [1, 1, 2]]), np.array([[0.0, 0.2, 0.9], [0.0, 0.1, 0.7]]))
    >>> borders.edges.tolist(), borders.strengths.round(2).tolist(), borders.lengths.tolist()
    ([[0, 1]], [0.8], [2.0])
    """
    pairs, values = [], []
    for a, b, s, t in (
        (regions[:, :-1], regions[:, 1:], strength[:, :-1], strength[:, 1:]),
        (regions[:-1], regions[1:], strength[:-1], strength[1:]),
    ):
        between = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.sort(np.stack([a[between], b[between]], 1), axis=1))
        values.append(np.maximum(s[between], t[between]))
    each, every = np.concatenate(pairs).astype(np.int64) - 1, np.concatenate(values).astype(np.float64)
    edges, which, lengths = np.unique(each, axis=0, return_inverse=True, return_counts=True)
    total = np.bincount(which.reshape(-1), every, minlength=len(edges))
    return Borders(edges, total / np.maximum(lengths, 1), lengths.astype(np.float64))


def boundary_of(ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of objects with a neighbor (of four) that belongs to something else; not the image's border.

    Args:
        ids: (H, W) integers, 0 is background.

    >>> boundary_of(np.array([[1, 1, 2, 0]])).tolist()
    [[False, True, True, False]]
    """
    padded = np.pad(ids, 1, mode="edge")
    neighbors = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    result: np.ndarray = (ids > 0) & np.logical_or.reduce([ids != other for other in neighbors])
    return result
