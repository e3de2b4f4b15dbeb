"""Coverage tree: regions merge into a tree, and a segmentation is the best cut through it.

Silberman, Sontag, Fergus: "Instance Segmentation of Indoor Scenes Using a Coverage Loss", ECCV 2014.

The idea: a hierarchy of regions holds many segmentations, every cut through the tree is one, and the borders'
strength alone does not say which nodes are whole objects. A score of each node is learnt so that the cut with the
largest sum covers the objects well: the loss is the structured hinge, by how much any other cut, given the coverage
that it loses as an advantage, scores above the cut of largest coverage. As score and loss are sums over nodes, both
cuts are found from the leaves upwards (dynamic programming), exactly.

Where we differ from the paper:
- borders, classes and the features of regions come of one light network (EfficientNet-Lite0 with a ladder), where the
  paper has boundaries of gPb, hand-made and CNN features, and depth;
- coverage within the loss is its lower bound in which every true region counts for the node that covers it best, so
  that dynamic programming is enough; the paper solves an integer program for the same surrogate;
- regions merge by their borders' mean strength; the paper merges by learnt classifiers.

Shapes: B images, (H, W) the padded batch size, C classes, F features; N leaves of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eachmask.models.config import changed
from eachmask.models.proposal_free.dense import (
    DenseConfig,
    PixelInstances,
    PixelNetwork,
    PixelTargets,
    cross_entropy,
    objects_of_map,
    pixel_targets,
)
from eachmask.models.proposal_free.instance_cut import balanced
from eachmask.ops.regions import Borders, boundary_of, largest_regions, region_borders, superpixels
from eachmask.ops.segmentation_tree import Tree, best_coverage, best_cut, coverage_of_nodes, region_tree
from eachmask.structures import DecodeOptions, ImageBatch, Instances
from eachmask.structures.spatial import Spatial


class Raw(NamedTuple):
    """What the network says."""

    classes: Tensor  # (B, C + 1, H, W) logits, 0 is background
    borders: Tensor  # (B, H, W) logits: the border of an object
    features: Tensor  # (B, F, H, W) of which regions have means
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image


class Regions(NamedTuple):
    """The tree of one image."""

    leaves: np.ndarray  # (H, W) int32 1..N
    tree: Tree
    holds: np.ndarray  # (nodes, N) bool
    around: np.ndarray  # (nodes,) mean strength of the border around each


@dataclass(frozen=True)
class Config(DenseConfig):
    """What a variant may change."""

    num_features: int = 16
    score_width: int = 32
    """Hidden units of a node's score."""
    smoothing: float = 1.0
    """Of the borders before superpixels are made, px."""
    max_regions: int = 300
    """Leaves of a tree; the smoothing grows while there are more."""
    border_weight: float = 1.0
    coverage_weight: float = 1.0
    weighted: bool = True
    """Objects count by their pixels in the coverage, else all the same."""


class CoverageTree(PixelInstances[Raw]):
    """Classes, borders, features; and the score of a node of the tree."""

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__()
        self.num_classes, self.config = num_classes, config
        self.network = PixelNetwork(num_classes + 2 + config.num_features, config)
        self.score = nn.Sequential(
            nn.Linear(config.num_features + num_classes + 1 + 4, config.score_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.score_width, 1),
        )

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> maps at the same resolution; trees are grown where they are needed."""
        classes, borders, features = self.network(images.tensor).split(
            [self.num_classes + 1, 1, self.config.num_features], dim=1
        )
        return Raw(classes, borders[:, 0], features, images.sizes)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy of classes and borders (border and inside weighing the same), hinge of the cuts."""
        size = (raw.classes.shape[-2], raw.classes.shape[-1])
        maps = [pixel_targets(t, size, valid) for t, valid in zip(targets, raw.sizes, strict=True)]
        borders = torch.stack([border_loss(*pair) for pair in zip(raw.borders.float(), maps, strict=True)]).mean()
        hinges = torch.stack([self._hinge(raw, i, target) for i, target in enumerate(maps)]).mean()
        return {
            "classes": cross_entropy(raw.classes, maps),
            "borders": self.config.border_weight * borders,
            "coverage": self.config.coverage_weight * hinges,
        }

    def select(self, raw: Raw, options: DecodeOptions) -> Raw:
        """Logits become probabilities; trees are grown and cut by :meth:`pack`."""
        return Raw(raw.classes.float().softmax(1), raw.borders.float().sigmoid(), raw.features.float(), raw.sizes)

    def pack(self, selected: Raw, options: DecodeOptions) -> list[Instances]:
        """Nodes of the best cut that are no background, scored by the mean probability of their class."""
        result = []
        for i, (h, w) in enumerate(selected.sizes):
            classes = selected.classes[i, :, :h, :w]
            regions = self._regions(selected.borders[i, :h, :w], classes)
            with torch.no_grad():
                means = node_means(torch.cat([classes, selected.features[i, :, :h, :w]]), regions)
                scores = self._scores(means, regions)
            chosen = best_cut(regions.tree, scores.cpu().double().numpy())
            sure, labels = means[chosen, : self.num_classes + 1].cpu().max(1)
            result.append(self._objects(regions, chosen, sure.numpy(), labels.numpy(), options))
        return result

    def _objects(
        self, regions: Regions, chosen: np.ndarray, sure: np.ndarray, labels: np.ndarray, options: DecodeOptions
    ) -> Instances:
        things = labels > 0
        numbers = np.zeros(regions.tree.num_leaves + 1, np.int32)
        for number, node in enumerate(chosen[things], start=1):
            numbers[1:][regions.holds[node]] = number
        return objects_of_map(numbers[regions.leaves], sure[things], labels[things] - 1, self.config, options)

    def _hinge(self, raw: Raw, image: int, target: PixelTargets) -> Tensor:
        """How far the best cut, with what it loses of coverage on top, scores above the one of largest coverage."""
        h, w = raw.sizes[image]
        maps = torch.cat([raw.classes[image].float().softmax(0), raw.features[image].float()])[:, :h, :w]
        regions = self._regions(
            raw.borders[image, :h, :w].detach().float().sigmoid(), maps.detach()[: self.num_classes + 1]
        )
        scores = self._scores(node_means(maps, regions), regions)
        ids = target.ids[:h, :w]
        areas = np.bincount(ids.ravel())[1:].astype(np.float64)
        if not areas.sum():
            return scores.sum() * 0
        iou = node_iou(regions, ids)[:, areas > 0]
        areas = areas[areas > 0]
        gains = coverage_of_nodes(iou, areas, self.config.weighted)
        now = scores.detach().cpu().double().numpy()
        best = best_coverage(regions.tree, iou, areas, self.config.weighted, now)
        rival = best_cut(regions.tree, now - gains)
        lost = float(gains[best].sum() - gains[rival].sum())
        return lost + scores[rival].sum() - scores[best].sum()

    def _regions(self, probable: Tensor, classes: Tensor) -> Regions:
        """The tree of borders (H, W) and classes (C + 1, H, W), probabilities; no leaf crosses into the background, but
        over specks beyond the number of leaves that a tree may have."""
        borders, inside = probable.cpu().numpy(), classes.argmax(0).cpu().numpy() > 0
        smoothing, most = self.config.smoothing, self.config.max_regions // 2
        leaves = superpixels(borders, inside, smoothing, most)
        leaves[~inside] = superpixels(borders, ~inside, smoothing, most)[~inside] + leaves.max(initial=0)
        leaves = largest_regions(leaves, borders, self.config.max_regions)
        touching = region_borders(leaves, borders)
        tree = region_tree(touching.edges, touching.strengths, touching.lengths, int(leaves.max()))
        holds = tree.leaves_of()
        return Regions(leaves, tree, holds, strengths_around(holds, touching))

    def _scores(self, means: Tensor, regions: Regions) -> Tensor:
        """(nodes,) of means (nodes, C + 1 + F), with the nodes' size and the borders around and given up."""
        area = regions.holds @ np.bincount(regions.leaves.ravel())[1:]
        given_up = np.concatenate([np.zeros(regions.tree.num_leaves), regions.tree.strengths])
        shape = np.stack([np.log(area) / 10, np.sqrt(area / regions.leaves.size), regions.around, given_up], 1)
        result: Tensor = self.score(torch.cat([means, torch.from_numpy(shape).to(means)], 1))[:, 0]
        return result


def node_means(maps: Tensor, regions: Regions) -> Tensor:
    """(nodes, D) means of maps (D, H, W) over every node's pixels."""
    numbers = torch.from_numpy(regions.leaves.astype(np.int64).ravel() - 1).to(maps.device)
    rows = torch.cat([maps.flatten(1).T, torch.ones_like(numbers, dtype=maps.dtype)[:, None]], 1)
    sums = maps.new_zeros(regions.tree.num_leaves, rows.shape[1]).index_add(0, numbers, rows)
    with torch.autocast(sums.device.type, enabled=False):  # sums of thousands of pixels want float32
        total = torch.from_numpy(regions.holds).to(sums) @ sums
    return total[:, :-1] / total[:, -1:]


def strengths_around(holds: np.ndarray, borders: Borders) -> np.ndarray:
    """(nodes,) mean strength of the border that a node shares with what it does not hold; 0 where it holds all.

    Args:
        holds: (nodes, N) bool; borders: between the leaves.
    """
    outer = holds[:, borders.edges[:, 0]] != holds[:, borders.edges[:, 1]]
    result: np.ndarray = outer @ (borders.strengths * borders.lengths) / np.maximum(outer @ borders.lengths, 1)
    return result


def node_iou(regions: Regions, ids: np.ndarray) -> np.ndarray:
    """(nodes, K) IoU of every node with every true object.

    Args:
        ids: (H, W) 0 is background.
    """
    num, most = regions.tree.num_leaves, int(ids.max()) + 1
    pairs = (regions.leaves.astype(np.int64) - 1).ravel() * most + ids.ravel()
    common = regions.holds @ np.bincount(pairs, minlength=num * most).reshape(num, most)
    union = common.sum(1, keepdims=True) + np.bincount(ids.ravel(), minlength=most) - common
    result: np.ndarray = (common / union)[:, 1:]
    return result


def border_loss(logits: Tensor, target: PixelTargets) -> Tensor:
    """Cross-entropy of (H, W) logits; border, inside of objects and background weigh the same."""
    border = torch.from_numpy(boundary_of(target.ids)).to(logits.device)
    valid = torch.from_numpy(target.valid).to(logits.device)
    inside = torch.from_numpy(target.ids > 0).to(logits.device)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, border.float(), reduction="none")
    return balanced(entropy, border, inside & ~border, valid & ~inside)


# Variants -------------------------------------------------------------------------------------------------------------


def coverage_tree_lite0(num_classes: int = 1, **config: Any) -> CoverageTree:
    """EfficientNet-Lite0 and a ladder, at most 300 leaves."""
    return CoverageTree(num_classes, changed(Config(), config))
