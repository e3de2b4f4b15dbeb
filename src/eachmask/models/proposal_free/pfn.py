"""Proposal-free network: pixels say where their object is and how many there are, and are grouped by that.

Liang, Wei, Shen, Yang, Lin, Yan: "Proposal-free Network for Instance-level Object Segmentation", arXiv 1509.02636
(2015), TPAMI 2018.

The idea: every pixel of an object predicts the same six numbers, its object's center and two corners, so that pixels
of one object are one point of a space that is known beforehand; nothing has to be learnt about who repels whom. The
network also counts the objects of each class, and a clustering that is given that number groups the pixels.

Where we differ from the paper:
- one light network (EfficientNet-Lite0 with a ladder); the paper has two VGG-16, of which one is for the classes;
- places are predicted relative to the pixel, in units of ``unit`` px, since images differ in size;
- the count is the sum of a density over the image, so that it does not depend on the image's size either; the paper
  has a fully connected layer;
- spectral clustering groups ``max_points`` pixels, evenly spaced; the others follow the one that says most nearly the
  same.

Shapes: B images, (H, W) the padded batch size, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.proposal_free.dense import (
    DenseConfig,
    PixelInstances,
    PixelNetwork,
    PixelTargets,
    cross_entropy,
    objects_by_class,
    pixel_targets,
)
from eachmask.ops.spectral import kmeans, spectral_clusters
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures.spatial import Spatial

FIRST_DENSITY = -8.0
"""Logarithm of the objects per pixel before anything is learnt: some in an image."""


class Raw(NamedTuple):
    """What the network says."""

    classes: Tensor  # (B, C + 1, H, W) logits, 0 is background
    places: Tensor  # (B, 6, H, W) px: x and y of the object's center, its upper left and its lower right corner
    counts: Tensor  # (B, C) objects of each class
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    unit: float = 32.0
    """Pixels of the image for one unit of the places that the network says."""
    place_weight: float = 2.0
    count_weight: float = 0.5
    grouping: Literal["spectral", "kmeans"] = "spectral"
    scale: float = 10.0
    """Distance of places at which pixels stop being alike, px (spectral)."""
    max_points: int = 600
    """Pixels of a class that are grouped; the others follow the nearest of them."""


class ProposalFreeNetwork(PixelInstances[Raw]):
    """Classes, places and counts."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.network = PixelNetwork(2 * num_classes + 7, config)
        assert self.network.head.bias is not None
        with torch.no_grad():
            self.network.head.bias[-4 * num_classes :] = FIRST_DENSITY  # 2 x 2 sub-pixels each

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes and places at the same resolution, and counts."""
        maps = self.network(images.tensor)
        classes, offsets, density = maps.split([self.num_classes + 1, 6, self.num_classes], dim=1)
        places = offsets.float() * self.config.unit + pixel_places(maps).repeat(3, 1, 1)
        return Raw(classes, places, counts_of(density.float(), images.sizes), images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of the classes, smooth absolute error of places (of objects' pixels) and counts."""
        size = (raw.classes.shape[-2], raw.classes.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        places = torch.stack([place_loss(*pair, self.config.unit) for pair in zip(raw.places, maps, strict=True)])
        true = np.stack([np.bincount(t.labels[present(t)], minlength=self.num_classes) for t in maps])
        counts = F.smooth_l1_loss(raw.counts, torch.from_numpy(true).to(raw.counts))
        return {
            "classes": cross_entropy(raw.classes, maps),
            "places": self.config.place_weight * places.mean(),
            "counts": self.config.count_weight * counts,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; pixels are grouped by :meth:`pack`."""
        return raw._replace(classes=raw.classes.float().softmax(1))

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """As many groups of each class as were counted; an object's score is the mean probability of its class."""
        classes, places, counts = (part.cpu().numpy() for part in selected[:3])
        return [
            objects_by_class(
                classes[i, :, :h, :w], partial(self._parts, places[i, :, :h, :w], counts[i]), self.config, options
            )
            for i, (h, w) in enumerate(selected.sizes)
        ]

    def _parts(self, places: np.ndarray, counts: np.ndarray, label: int, mask: np.ndarray) -> np.ndarray:
        """(H, W) numbers of one class's objects from 1; at least one, since there are pixels."""
        config, points = self.config, places[:, mask].T.astype(np.float64)
        num = max(round(float(counts[label])), 1)
        some = points[:: -(-len(points) // config.max_points)]
        groups = spectral_clusters(some, num, config.scale) if config.grouping == "spectral" else kmeans(some, num)
        ids = np.zeros(mask.shape, np.int32)
        ids[mask] = groups[cKDTree(some).query(points)[1]] + 1
        return ids


def pixel_places(maps: Tensor) -> Tensor:
    """(2, H, W) x and y of the pixels' centers, px, as large as maps (..., H, W)."""
    ys, xs = (torch.arange(n, device=maps.device, dtype=torch.float32) + 0.5 for n in maps.shape[-2:])
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"))


def counts_of(density: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, C) sum within each image of the exponential of logarithms (B, C, H, W), of which none is above 1."""
    density = density.clamp(max=0).exp()
    return torch.stack([one[:, :h, :w].sum((1, 2)) for one, (h, w) in zip(density, sizes, strict=True)])


def present(target: PixelTargets) -> np.ndarray:
    """(K,) bool: objects that have a pixel."""
    result: np.ndarray = np.bincount(target.ids.ravel(), minlength=len(target.labels) + 1)[1:] > 0
    return result


def place_targets(ids: np.ndarray) -> np.ndarray:
    """(6, H, W) float32 px of each object's mean, upper left and lower right corner at its pixels; 0 on background."""
    ys, xs = np.nonzero(ids)
    numbers = ids[ys, xs]
    num = int(ids.max(initial=0))
    table = np.zeros((num + 1, 6), np.float32)
    area = np.maximum(np.bincount(numbers, minlength=num + 1), 1)
    for column, values in ((0, xs), (1, ys)):
        table[:, column] = np.bincount(numbers, values + 0.5, minlength=num + 1) / area
        least, most = np.full(num + 1, np.inf), np.zeros(num + 1)
        np.minimum.at(least, numbers, values)
        np.maximum.at(most, numbers, values + 1)
        table[:, 2 + column], table[:, 4 + column] = np.where(np.isinf(least), 0, least), most
    table[0] = 0
    result: np.ndarray = table[ids].transpose(2, 0, 1)
    return result


def place_loss(places: Tensor, target: PixelTargets, unit: float) -> Tensor:
    """Smooth absolute error in units, a mean over the pixels of objects.

    Args:
        places: (6, H, W) px.
    """
    true = torch.from_numpy(place_targets(target.ids)).to(places)
    inside = torch.from_numpy(target.ids > 0).to(places)
    error = F.smooth_l1_loss(places / unit, true / unit, reduction="none", beta=0.1).mean(0)
    return (error * inside).sum() / inside.sum().clamp(min=1)


# Variants -------------------------------------------------------------------------------------------------------------


def pfn_lite0(num_classes: int = 1, **config: Any) -> ProposalFreeNetwork:
    """EfficientNet-Lite0 and a ladder, spectral clustering."""
    return ProposalFreeNetwork(num_classes, changed(Config(), config))


def pfn_kmeans_lite0(num_classes: int = 1, **config: Any) -> ProposalFreeNetwork:
    """EfficientNet-Lite0 and a ladder, k-means."""
    return ProposalFreeNetwork(num_classes, changed(Config(grouping="kmeans"), config))
