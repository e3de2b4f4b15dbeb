"""InstanceCut: classes say what a pixel is, edges say where one object ends, and a multicut makes objects of both.

Kirillov, Levinkov, Andres, Savchynskyy, Rother: "InstanceCut: from Edges to Instances with MultiCut", CVPR 2017,
arXiv 1611.08272.

The idea: a network says of each pixel its class, and of each pixel and class whether it lies on the border of an
object of that class (instance-aware edges). Superpixels between the edges are the nodes of a graph; two that touch
attract each other where the edge between them is improbable and repel where it is probable. The partition of least
energy is the result: how many objects there are comes out of it, and an edge with a gap is closed where the rest of
it is strong.

Where we differ from the paper:
- one light network (EfficientNet-Lite0 with a ladder) for both; the paper has two;
- a superpixel's class is that of its pixels and each class is cut for itself; the paper lets superpixels change their
  class while it cuts;
- energies are sums over the pixels of a border, as a cut of the grid of pixels would have them.

Shapes: B images, (H, W) the padded batch size, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
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
from eachmask.ops.multicut import multicut
from eachmask.ops.regions import boundary_of, region_borders, superpixels
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures.spatial import Spatial

MIN_PROBABILITY = 1e-3
"""Of an edge being there or not, before its logarithm is taken."""


class Raw(NamedTuple):
    """What the network says."""

    classes: Tensor  # (B, C + 1, H, W) logits, 0 is background
    edges: Tensor  # (B, C, H, W) logits: border of an object of that class
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    edge_weight: float = 1.0
    smoothing: float = 1.0
    """Of the edges before superpixels are made, px."""
    max_regions: int = 1000
    """Superpixels of a class; the smoothing grows while there are more."""
    bias: float = 0.0
    """Added to the log-odds of no edge: above 0 objects are cut less."""


class InstanceCut(PixelInstances[Raw]):
    """Classes and instance-aware edges."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.network = PixelNetwork(2 * num_classes + 1, config)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes and edges at the same resolution."""
        classes, edges = self.network(images.tensor).split([self.num_classes + 1, self.num_classes], dim=1)
        return Raw(classes, edges, images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of the classes; of the edges within objects, edge and inside weighing the same."""
        size = (raw.classes.shape[-2], raw.classes.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        edges = torch.stack([edge_loss(*pair) for pair in zip(raw.edges.float(), maps, strict=True)]).mean()
        return {"classes": cross_entropy(raw.classes, maps), "edges": self.config.edge_weight * edges}

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; the graph is cut by :meth:`pack`."""
        return Raw(raw.classes.float().softmax(1), raw.edges.float().sigmoid(), raw.sizes)

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Parts of each class's superpixels; an object's score is the mean probability of its class."""
        classes, edges = selected.classes.cpu().numpy(), selected.edges.cpu().numpy()
        return [
            objects_by_class(classes[i, :, :h, :w], partial(self._parts, edges[i, :, :h, :w]), self.config, options)
            for i, (h, w) in enumerate(selected.sizes)
        ]

    def _parts(self, every: np.ndarray, label: int, mask: np.ndarray) -> np.ndarray:
        """(H, W) numbers of one class's objects from 1; edges (C, H, W) of every class."""
        edges = every[label]
        regions = superpixels(edges, mask, self.config.smoothing, self.config.max_regions)
        borders = region_borders(regions, edges)
        probable = borders.strengths.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        weights = borders.lengths * (np.log((1 - probable) / probable) + self.config.bias)
        parts = multicut(borders.edges, weights, int(regions.max(initial=0)))
        result: np.ndarray = np.concatenate([[0], parts + 1])[regions]
        return result


def edge_loss(logits: Tensor, target: PixelTargets) -> Tensor:
    """Mean over border and inside of objects, half each, of the cross-entropy of the object's class's edges.

    Args:
        logits: (C, H, W).
    """
    classes = torch.from_numpy(target.classes()).to(logits.device)
    own = logits.gather(0, (classes - 1).clamp(min=0)[None])[0]
    border = torch.from_numpy(boundary_of(target.ids)).to(logits.device)
    entropy = F.binary_cross_entropy_with_logits(own, border.float(), reduction="none")
    return balanced(entropy, border, (classes > 0) & ~border)


def balanced(loss: Tensor, *parts: Tensor) -> Tensor:
    """Mean over the parts of the mean within each; a part without pixels counts as 0.

    Args:
        loss: (H, W); parts: (H, W) bool.
    """
    return torch.stack([(loss * part).sum() / part.sum().clamp(min=1) for part in parts]).mean()


# Variants -------------------------------------------------------------------------------------------------------------


def instance_cut_lite0(num_classes: int = 1, **config: Any) -> InstanceCut:
    """EfficientNet-Lite0 and a ladder."""
    return InstanceCut(num_classes, changed(Config(), config))
