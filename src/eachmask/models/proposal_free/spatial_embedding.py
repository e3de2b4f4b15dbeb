"""Spatial embeddings: pixels point to the center of their object, which says itself how near is near enough.

Neven, De Brabandere, Proesmans, Van Gool: "Instance Segmentation by Jointly Optimizing Spatial Embeddings and
Clustering Bandwidth", CVPR 2019, arXiv 1906.11109.

The idea: every pixel points to a place, and a pixel belongs to an object with the probability of a Gaussian around the
object's center. The Gaussian's width is learnt with it: large objects tolerate pixels that point a little beside. So
the loss is about masks (their IoU, by the Lovasz hinge), not about distances. A seed map learns how near to its center
a pixel points; when predicting, the best seed gives center and bandwidth of an object, its pixels leave, and so on.

Two networks: ``spatial_embedding_erfnet`` is the paper's, ``spatial_embedding_lite0`` has the encoder and the ladder of
the other systems here. One seed map per class. Where two objects claim a pixel, the surer one has it; in the published
code it is the other one.

Shapes: B images, (H, W) the padded batch size, C classes, n is 1 or 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eachmask.models.config import changed
from eachmask.models.proposal_free.dense import (
    DenseConfig,
    PixelInstances,
    PixelNetwork,
    PixelTargets,
    objects_of_map,
    pixel_targets,
)
from eachmask.models.proposal_free.erfnet import ERFNet
from eachmask.ops.spatial_embedding import Terms, coordinates, spatial_clusters, spatial_terms
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the network says."""

    embedding: Tensor  # (B, 2, H, W) x, y: place that each pixel points to
    bandwidth: Tensor  # (B, n, H, W) one tenth of its logarithm
    seeds: Tensor  # (B, C, H, W) logits
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    network: Literal["ladder", "erfnet"] = "ladder"
    num_sigma: int = 1
    """1: objects are round for the clustering; 2: they have bandwidths in x and y."""
    grid: tuple[int, int] = (1024, 2048)
    """Height and width in px of what spans the unit of coordinates (and width / height of it)."""
    to_center: bool = True
    """Objects gather around the mean of their pixels, else around that of their embeddings."""
    foreground_weight: float = 10.0
    instance_weight: float = 1.0
    variance_weight: float = 10.0
    seed_weight: float = 1.0
    score_threshold: float = 0.8
    """Least seed of an object (published code: 0.9)."""
    seed_threshold: float = 0.5
    min_pixels: int = 16
    """Clusters of so many pixels or fewer are none (published code: 128, on street scenes of 2048 px)."""


class SpatialEmbedding(PixelInstances[Raw]):
    """Offsets, bandwidths and seeds."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        maps = 2 + config.num_sigma
        self.network: nn.Module
        if config.network == "erfnet":
            self.network = erfnet = ERFNet([maps, num_classes])
            start_small(erfnet.decoders[0].output_conv, slice(0, 2), slice(2, maps), dim=1)  # type: ignore[arg-type]
        else:
            self.network = ladder = PixelNetwork(maps + num_classes, config)
            start_small(ladder.head, slice(0, 8), slice(8, 4 * maps), dim=0)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> maps at the same resolution."""
        maps = self.network(images.tensor)
        offsets, bandwidth, seeds = maps.split([2, self.config.num_sigma, self.num_classes], dim=1)
        places = coordinates(maps.shape[-2], maps.shape[-1], self.config.grid).to(maps.device)
        return Raw(torch.tanh(offsets.float()) + places, bandwidth.float(), seeds, images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Lovasz hinge of the masks, variance of the bandwidths within objects, squared error of the seeds."""
        size = (raw.seeds.shape[-2], raw.seeds.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        terms = [self._terms(raw, i, target) for i, target in enumerate(maps)]
        instance, variance, seed = (torch.stack(column).mean() for column in zip(*terms, strict=True))
        config = self.config
        return {
            "instance": config.instance_weight * instance,
            "variance": config.variance_weight * variance,
            "seed": config.seed_weight * seed,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; objects are taken out one by one by :meth:`pack`."""
        return raw._replace(seeds=raw.seeds.float().sigmoid())

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Objects of each class, scored by their seeds."""
        embedding, bandwidth, seeds = (part.cpu().numpy() for part in selected[:3])
        return [
            self._objects(embedding[i, :, :h, :w], bandwidth[i, :, :h, :w], seeds[i, :, :h, :w], options)
            for i, (h, w) in enumerate(selected.sizes)
        ]

    def _terms(self, raw: Raw, image: int, target: PixelTargets) -> Terms:
        device = raw.seeds.device
        height, width = raw.seeds.shape[-2:]
        seeds = raw.seeds[image].float().sigmoid()
        # Of the background all maps are to be 0, of an object that of its class.
        rows = [(seeds**2).mean(0).add(1e-12).sqrt(), *(seeds[int(label)] for label in target.labels)]
        return spatial_terms(
            raw.embedding[image],
            raw.bandwidth[image],
            torch.stack(rows),
            coordinates(height, width, self.config.grid).to(device),
            torch.from_numpy(target.ids).to(device),
            torch.from_numpy(target.valid).to(device),
            to_center=self.config.to_center,
            foreground_weight=self.config.foreground_weight,
        )

    def _objects(
        self, embedding: np.ndarray, bandwidth: np.ndarray, seeds: np.ndarray, options: DecodeOptions
    ) -> Instances:
        config = self.config
        least = config.score_threshold if options.score_threshold is None else options.score_threshold
        ids = np.zeros(seeds.shape[1:], np.int32)
        scores, labels = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        for label in range(self.num_classes):
            own = np.where(seeds.argmax(0) == label, seeds[label], 0)
            found, sure = spatial_clusters(
                embedding,
                bandwidth,
                own,
                threshold=least,
                seed_threshold=config.seed_threshold,
                min_pixels=config.min_pixels,
                max_objects=config.max_detections,
                overwrite=False,
            )
            ids[(found > 0) & (ids == 0)] = found[(found > 0) & (ids == 0)] + sum(map(len, scores))
            scores.append(sure)
            labels.append(np.full(len(sure), label))
        return objects_of_map(ids, np.concatenate(scores), np.concatenate(labels), config, options)


def start_small(layer: nn.Conv2d | nn.ConvTranspose2d, offsets: slice, bandwidth: slice, dim: int) -> None:
    """Pixels point to themselves, and objects have a radius of some pixels, before anything is learnt.

    Args:
        offsets, bandwidth: channels of the layer's output; dim: of its weight, that these are in.
    """
    assert layer.bias is not None
    with torch.no_grad():
        for part, value in ((offsets, 0.0), (bandwidth, 1.0)):
            layer.weight[(slice(None),) * dim + (part,)] = 0
            layer.bias[part] = value


# Variants -------------------------------------------------------------------------------------------------------------


def spatial_embedding_lite0(num_classes: int = 1, **config: Any) -> SpatialEmbedding:
    """EfficientNet-Lite0 and a ladder."""
    return SpatialEmbedding(num_classes, changed(Config(), config))


def spatial_embedding_erfnet(num_classes: int = 1, **config: Any) -> SpatialEmbedding:
    """The paper's branched ERFNet, 2 M parameters."""
    return SpatialEmbedding(num_classes, changed(Config(network="erfnet"), config))
