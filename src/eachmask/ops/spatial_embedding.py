"""Spatial embeddings: pixels point to their object's center, and every object has a bandwidth of its own.

Neven, De Brabandere, Proesmans, Van Gool: "Instance Segmentation by Jointly Optimizing Spatial Embeddings and
Clustering Bandwidth", CVPR 2019, arXiv 1906.11109; the Lovasz hinge is that of Berman, Triki, Blaschko, CVPR 2018.

A prediction has the channels offset x, offset y (before tanh), n of the bandwidth (one tenth of its logarithm), and the
logit of the seed map. Shapes: (H, W) the image, n is 1 (round) or 2 (bandwidths of x and y), K objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BANDWIDTH_SCALE = 10.0
"""The channel's value times this is the logarithm of the bandwidth."""


class Terms(NamedTuple):
    """Scalars of one image."""

    instance: Tensor
    variance: Tensor
    seed: Tensor


def coordinates(height: int, width: int, grid: tuple[int, int]) -> Tensor:
    """(2, height, width) x and y: a grid of that height and width in px spans 0..1 and 0..width / height.

    >>> coordinates(1, 3, (5, 5)).tolist()
    [[[0.0, 0.25, 0.5]], [[0.0, 0.0, 0.0]]]
    """
    x = torch.linspace(0, grid[1] / grid[0], grid[1]) if width <= grid[1] else _steps(width, grid[1], grid[1] / grid[0])
    y = torch.linspace(0, 1, grid[0]) if height <= grid[0] else _steps(height, grid[0], 1.0)
    return torch.stack([x[None, :width].expand(height, width), y[:height, None].expand(height, width)])


def _steps(num: int, of: int, length: float) -> Tensor:
    """Coordinates beyond the grid, in the same steps."""
    return torch.arange(num) * (length / (of - 1))


def lovasz_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """The convex extension of 1 - IoU of one mask: (P,) values above 0 inside, (P,) 0 or 1 -> scalar.

    >>> lovasz_hinge(torch.tensor([2.0, -2.0]), torch.tensor([1.0, 0.0])).item()
    0.0
    """
    signs = 2 * targets - 1
    errors, order = torch.sort(1 - logits * signs, descending=True)
    return errors.clamp(min=0) @ _jaccard_steps(targets[order])


def _jaccard_steps(sorted_targets: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each further error."""
    total = sorted_targets.sum()
    intersection = total - sorted_targets.cumsum(0)
    union = total + (1 - sorted_targets).cumsum(0)
    loss = 1 - intersection / union
    return torch.cat([loss[:1], loss.diff()])


def spatial_terms(
    embedding: Tensor,
    bandwidth: Tensor,
    seeds: Tensor,
    places: Tensor,
    ids: Tensor,
    valid: Tensor,
    *,
    to_center: bool = True,
    foreground_weight: float = 1.0,
) -> Terms:
    """The three terms of one image.

    Args:
        embedding: (2, H, W) place each pixel points to.
        bandwidth: (n, H, W) one tenth of the logarithm.
        seeds: (K + 1, H, W) or (1, H, W) probabilities: of the background's and each object's class; one for all.
        places: (2, H, W) of the pixels.
        ids: (H, W) 0 background, 1..K.
        valid: (H, W) bool; pixels that are learnt from.
        to_center: objects gather around the mean of their pixels, else around the mean of their embeddings.
        foreground_weight: of the seed map within objects.

    >>> places = coordinates(1, 4, (4, 4))
    >>> ids, seen = torch.tensor([[1, 1, 0, 0]]), torch.ones(1, 4, dtype=torch.bool)
    >>> terms = spatial_terms(places, torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), places, ids, seen)
    >>> terms.variance.item(), terms.instance.item() > 0
    (0.0, True)
    """
    embedding, places, sigma = (x[:, valid] for x in (embedding, places, bandwidth))
    chosen, own = seeds[:, valid], ids[valid]
    instance = variance = embedding.sum() * 0 + sigma.sum() * 0
    seed = (chosen[0][own == 0] ** 2).sum() + chosen.sum() * 0
    numbers = [int(i) for i in torch.unique(own) if i > 0]
    for number in numbers:
        inside = own == number
        center = (places if to_center else embedding)[:, inside].mean(1, keepdim=True)
        spread = sigma[:, inside].mean(1, keepdim=True)
        variance = variance + ((sigma[:, inside] - spread.detach()) ** 2).mean()
        probability = torch.exp(-((embedding - center) ** 2 * torch.exp(BANDWIDTH_SCALE * spread)).sum(0))
        instance = instance + lovasz_hinge(2 * probability - 1, inside.to(probability.dtype))
        of_class = chosen[number if len(chosen) > 1 else 0]
        seed = seed + foreground_weight * ((of_class[inside] - probability[inside].detach()) ** 2).sum()
    count = max(len(numbers), 1)
    return Terms(instance / count, variance / count, seed / max(int(valid.sum()), 1))


def spatial_clusters(
    embedding: np.ndarray,
    bandwidth: np.ndarray,
    seeds: np.ndarray,
    *,
    threshold: float = 0.9,
    seed_threshold: float = 0.5,
    min_pixels: int = 128,
    max_objects: int | None = None,
    overwrite: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The surest pixel that is left gives center and bandwidth of an object; its members leave; and so on.

    A cluster counts if it has more than ``min_pixels`` members, more than half of them left; it then takes them all.
    Clusters that are too small leave as well.

    Args:
        embedding: (2, H, W); bandwidth: (n, H, W); seeds: (H, W) probabilities.
        threshold: least seed of an object.
        seed_threshold: pixels above it take part.
        overwrite: an object takes its members from those before it too (published code), else what is left.

    Returns:
        (H, W) int32 numbers 1..K, 0 is none; (K,) scores, best first.

    >>> embedding = np.stack([np.repeat([0.2, 0.8], 200), np.zeros(400)]).reshape(2, 20, 20)  # two places
    >>> ids, scores = spatial_clusters(embedding, np.full((1, 20, 20), 0.5), np.ones((20, 20)))
    >>> np.bincount(ids.ravel()).tolist(), scores.tolist()
    ([0, 200, 200], [1.0, 1.0])
    """
    inside = seeds > seed_threshold
    places, chosen = embedding[:, inside], seeds[inside]
    scale = np.exp(bandwidth[:, inside] * BANDWIDTH_SCALE)
    left = np.ones(len(chosen), bool)
    numbers = np.zeros(len(chosen), np.int32)
    scores: list[float] = []
    while left.sum() > min_pixels and (max_objects is None or len(scores) < max_objects):
        best = int(np.where(left, chosen, 0).argmax())
        if not left[best] or chosen[best] < threshold:
            break
        left[best] = False
        apart = ((places - places[:, best : best + 1]) ** 2 * scale[:, best : best + 1]).sum(0)
        members = np.exp(-apart) > 0.5
        if members.sum() > min_pixels and left[members].sum() > 0.5 * members.sum():
            scores.append(float(chosen[best]))
            numbers[members if overwrite else members & (numbers == 0)] = len(scores)
        left &= ~members
    ids = np.zeros(seeds.shape, np.int32)
    ids[inside] = numbers
    return ids, np.array(scores, np.float32)
