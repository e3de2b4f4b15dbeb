"""Discriminative embeddings: pixels of one object lie close together in a learnt space, those of two far apart.

De Brabandere, Neven, Van Gool: "Semantic Instance Segmentation with a Discriminative Loss Function", CVPR workshops
2017, arXiv 1708.02551.

The idea: the network gives every pixel a point; the loss pulls the points of an object into a ball of radius
``delta_pull`` and pushes the balls apart. When predicting, points of the foreground are clustered, by mean shift or by
the greedy neighbor rule. The number of objects need not be known, and nothing depends on boxes.

Where we differ from the paper:
- the encoder is light (EfficientNet-Lite0 with a ladder; the paper has ResNet-38), and what is foreground is said by a
  branch of the same network. With ``given`` (one :class:`~eachmask.structures.SemanticMap` for each image, class + 1
  where there are objects, 0 elsewhere) it is what is handed over: the paper's leaves have a known foreground;
- mean shift climbs on at most ``max_points`` pixels, evenly spaced, and from the ``max_seeds`` fullest cells of a grid.

Shapes: B images, (H, W) the padded batch size, C classes, D dimensions.
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
from eachmask.ops.discriminative import Terms, discriminative_terms, greedy_clusters
from eachmask.ops.mean_shift import mean_shift
from eachmask.structures import DecodeOptions, ImageBatch, Instances, SemanticMap
from eachmask.structures.spatial import Spatial

GIVEN_LOGIT = 20.0
"""Of a class that was handed over."""


class Raw(NamedTuple):
    """What the network says."""

    classes: Tensor  # (B, C + 1, H, W) logits, 0 is background
    embedding: Tensor  # (B, D, H, W)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    dimensions: int = 8
    """Of the embedding (paper: 8 on streets, 16 on leaves)."""
    delta_pull: float = 0.5
    delta_push: float = 1.5
    norm: float = 2.0
    pull_weight: float = 1.0
    push_weight: float = 1.0
    regularization_weight: float = 0.001
    average: Literal["objects", "pixels"] = "objects"
    """Pull is averaged within objects first (paper), or over all pixels of objects (a published implementation)."""
    clustering: Literal["mean_shift", "greedy"] = "mean_shift"
    bandwidth: float | None = 0.75
    """Of mean shift; None: estimated from each embedding. The radius of the greedy rule is twice ``delta_pull``."""
    max_points: int = 20000
    max_seeds: int = 500


class DiscriminativeEmbedding(PixelInstances[Raw]):
    """A semantic branch and an embedding."""

    takes = SemanticMap
    """What may be handed over with an image: where its foreground is."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.network = PixelNetwork(num_classes + 1 + config.dimensions, config)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes and embedding at the same resolution.

        Args:
            given: a :class:`~eachmask.structures.SemanticMap` per image (0 background, c + 1 the class c) whose word
                on the foreground is taken instead of the network's.
        """
        maps = self.network(images.tensor)
        classes, embedding = maps.split([self.num_classes + 1, self.config.dimensions], dim=1)
        for i, known in enumerate(given or ()):
            if isinstance(known, SemanticMap):
                classes = classes.clone()
                height, width = known.image_size
                classes[i, :, :height, :width] = self._given_logits(known).to(classes)
        return Raw(classes, embedding, images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of the classes; pull, push and regularization, a mean over the images."""
        size = (raw.classes.shape[-2], raw.classes.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        terms = [self._terms(*pair) for pair in zip(raw.embedding.float(), maps, strict=True)]
        pull, push, regularization = (torch.stack(column).mean() for column in zip(*terms, strict=True))
        config = self.config
        return {
            "classes": cross_entropy(raw.classes, maps),
            "pull": config.pull_weight * pull,
            "push": config.push_weight * push,
            "regularization": config.regularization_weight * regularization,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; clusters are found by :meth:`pack`."""
        return Raw(raw.classes.float().softmax(dim=1), raw.embedding.float(), raw.sizes)

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Clusters of the pixels of each class; an object's score is the mean probability of its class."""
        probabilities, points = selected.classes.cpu().numpy(), selected.embedding.cpu().numpy()
        return [
            objects_by_class(
                probabilities[i, :, :h, :w], partial(self._parts, points[i, :, :h, :w]), self.config, options
            )
            for i, (h, w) in enumerate(selected.sizes)
        ]

    def _given_logits(self, known: SemanticMap) -> Tensor:
        labels = known.labels.long().clamp(max=self.num_classes)
        return GIVEN_LOGIT * F.one_hot(labels, self.num_classes + 1).permute(2, 0, 1).float()

    def _terms(self, embedding: Tensor, target: PixelTargets) -> Terms:
        """Objects repel those of their own class; the mean over the classes that are there."""
        config, points = self.config, embedding.flatten(1).T
        rows = []
        for label in np.unique(target.labels):
            of_class = np.where(np.isin(target.ids, np.flatnonzero(target.labels == label) + 1), target.ids, 0)
            ids = torch.from_numpy(of_class).to(points.device).flatten()
            rows.append(
                discriminative_terms(points, ids, config.delta_pull, config.delta_push, config.norm, config.average)
            )
        if not rows:
            return Terms(*[points.sum() * 0] * 3)
        return Terms(*(torch.stack(column).mean() for column in zip(*rows, strict=True)))

    def _parts(self, embedding: np.ndarray, label: int, mask: np.ndarray) -> np.ndarray:
        """(H, W) numbers of one class's objects from 1."""
        ids = np.zeros(mask.shape, np.int32)
        ids[mask] = self._clusters(embedding[:, mask].T.astype(np.float64)) + 1
        return ids

    def _clusters(self, points: np.ndarray) -> np.ndarray:
        """(P,) numbers from 0."""
        config = self.config
        if config.clustering == "greedy":
            return greedy_clusters(points, 2 * config.delta_pull)
        some = points[:: -(-len(points) // config.max_points)]
        centers = mean_shift(some, config.bandwidth, max_seeds=config.max_seeds).centers
        result: np.ndarray = cKDTree(centers).query(points)[1]
        return result


# Variants -------------------------------------------------------------------------------------------------------------


def discriminative_lite0(num_classes: int = 1, **config: Any) -> DiscriminativeEmbedding:
    """EfficientNet-Lite0 and a ladder, eight dimensions, mean shift."""
    return DiscriminativeEmbedding(num_classes, changed(Config(), config))


def discriminative_greedy_lite0(num_classes: int = 1, **config: Any) -> DiscriminativeEmbedding:
    """The same network; clusters by the greedy neighbor rule."""
    return DiscriminativeEmbedding(num_classes, changed(Config(clustering="greedy"), config))
