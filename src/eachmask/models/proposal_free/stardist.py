"""StarDist: from every pixel, how far its object reaches in each direction.

Schmidt, Weigert, Broaddus, Myers: "Cell Detection with Star-convex Polygons", MICCAI 2018, arXiv 1806.03535.

The idea: nuclei and many cells are star-convex, that is, there is a point from which all of the outline can be seen.
Every pixel says how far away the outline of its object is along R rays, and how far it is from the edge relative to the
middle (the object probability). Each probable pixel is thereby a polygon; greedy suppression leaves one per object.

Where we differ from the paper: the encoder is EfficientNet-Lite0 with a ladder instead of a U-Net, with answers at
every second pixel; distances are regressed in units of ``distance_unit`` px; at most ``max_candidates`` pixels come to
suppression; a softmax says which class (as later versions of the package ``stardist`` do).

Shapes: B images, (H, W) the padded batch size, (h, w) a half of it, R rays, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.instance.panoptic_deeplab import Ladder
from eachmask.models.proposal_free.dense import (
    DenseConfig,
    PixelTargets,
    encoder_of,
    objects_of_map,
    pixel_targets,
)
from eachmask.models.protocol import Network
from eachmask.ops.stars import candidates, object_probability, paint_stars, star_distances, suppress
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures.spatial import Spatial
from eachmask.tasks.instances import INSTANCES

GRID = 2
"""Rows and columns of the image for one of the answer: what the ladder has."""


class Raw(NamedTuple):
    """What the network says, at half the resolution."""

    objectness: Tensor  # (B, h, w) logits
    distances: Tensor  # (B, R, h, w) px of the image
    classes: Tensor  # (B, C + 1, h, w) logits, 0 is background
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    rays: int = 32
    distance_unit: float = 8.0
    """Pixels per unit of the distance head."""
    distance_weight: float = 0.2
    background_weight: float = 1e-4
    """Of distances predicted on background, which should be 0."""
    score_threshold: float = 0.5
    nms_threshold: float = 0.4
    """Largest common area of two polygons, as a share of the smaller."""
    max_candidates: int = 4000
    border: int = 2
    """No object has its center so near to the border, cells of the grid."""


class StarDist(Network[Raw, Raw, Instances]):
    """Object probability, distances along rays, and a class."""

    task = INSTANCES
    needs = frozenset({"masks"})
    suppresses = False

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.encoder = encoder_of(config)
        self.ladder = Ladder(self.encoder.feature_info.channels(), config.decoder_channels)
        width = config.decoder_channels[-1]
        self.features = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(2 * width, 1 + config.rays + num_classes + 1, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.bias[1 : 1 + config.rays] = 1.0  # objects of some size, not none

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W), sides multiples of 32 -> maps at half the resolution."""
        x = images.tensor
        maps = self.head(self.features(self.ladder(x, self.encoder(x))))
        objectness, distances, classes = maps.split([1, self.config.rays, self.num_classes + 1], dim=1)
        return Raw(objectness[:, 0], distances * self.config.distance_unit, classes, images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of probability and class, mean absolute error of the distances, surer pixels first."""
        device, config = raw.objectness.device, self.config
        size = (GRID * raw.objectness.shape[-2], GRID * raw.objectness.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        made = [star_targets(target, config.rays) for target in maps]
        probability, distances, classes, valid = (
            torch.from_numpy(np.stack(column)).to(device) for column in zip(*made, strict=True)
        )
        seen = valid.sum().clamp(min=1)
        entropy = F.binary_cross_entropy_with_logits(raw.objectness.float(), probability, reduction="none")
        chosen = F.cross_entropy(raw.classes.float(), classes, reduction="none")
        apart = distance_loss(raw.distances.float(), distances, probability * valid, config.background_weight)
        return {
            "objectness": (entropy * valid).sum() / seen,
            "distance": config.distance_weight * apart,
            "classes": (chosen * valid).sum() / seen,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; polygons are suppressed by :meth:`pack`."""
        distances = raw.distances.float().clamp(min=1e-3)
        return Raw(raw.objectness.float().sigmoid(), distances, raw.classes.float().softmax(1), raw.sizes)

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Polygons that survive suppression, drawn with the better ones on top; the score is the probability."""
        probability, distances, classes = (part.cpu().numpy() for part in selected[:3])
        result = []
        for i, (height, width) in enumerate(selected.sizes):
            h, w = -(-height // GRID), -(-width // GRID)
            result.append(
                self._objects(probability[i, :h, :w], distances[i, :, :h, :w], classes[i], (height, width), options)
            )
        return result

    @property
    def max_objects(self) -> int:
        """The polygons that go into suppression."""
        return self.config.max_candidates

    def _objects(
        self,
        probability: np.ndarray,
        distances: np.ndarray,
        classes: np.ndarray,
        size: tuple[int, int],
        options: DecodeOptions,
    ) -> Instances:
        least, nms, *_ = options.limits(self.config)
        cells = candidates(probability, least, self.config.border)[: self.config.max_candidates]
        rows, columns = cells.T
        kept = suppress(cells * GRID, distances[:, rows, columns].T, nms)
        rows, columns = rows[kept], columns[kept]
        scores = probability[rows, columns]
        labels = classes[1:, rows, columns].argmax(0)
        ids = paint_stars(cells[kept] * GRID, distances[:, rows, columns].T, scores, size)
        return objects_of_map(ids, scores, labels, self.config, options)


def star_targets(target: PixelTargets, rays: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Maps at every second pixel: probability (h, w), distances (R, h, w) px, classes (h, w), valid (h, w) 0 or 1."""
    distances = star_distances(target.ids, rays, GRID).transpose(2, 0, 1)
    every = (slice(None, None, GRID),) * 2
    valid = target.valid[every].astype(np.float32)
    return object_probability(target.ids)[every], np.ascontiguousarray(distances), target.classes()[every], valid


def distance_loss(predicted: Tensor, distances: Tensor, probability: Tensor, background_weight: float) -> Tensor:
    """Mean absolute error, weighted by the object probability; small distances are asked for on background.

    Args:
        predicted, distances: (B, R, h, w) px; probability: (B, h, w), 0 where nothing is learnt.
    """
    error = (predicted - distances).abs().mean(1)
    inside = (error * probability).sum() / probability.sum().clamp(min=1)
    return inside + background_weight * (predicted.abs().mean(1) * (probability == 0)).mean()


# Variants -------------------------------------------------------------------------------------------------------------


def stardist_lite0(num_classes: int = 1, **config: Any) -> StarDist:
    """EfficientNet-Lite0 and a ladder, 32 rays, a grid of 2 px."""
    return StarDist(num_classes, changed(Config(), config))
