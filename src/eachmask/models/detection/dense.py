"""What dense detectors share, which say something of every place of a pyramid: towers, targets, and what is kept.

Shapes: B images, P places (or anchors) of all levels of one image, fine to coarse and row by row, N objects, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eachmask.models.protocol import Detections
from eachmask.ops.anchors import flatten_anchors
from eachmask.ops.suppression import suppress_boxes
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops
from eachmask.structures.decode import Limits

# Layers ---------------------------------------------------------------------------------------------------------------


def tower(in_channels: int, channels: int, depth: int, groups: int = 0, bias: bool = True) -> nn.Sequential:
    """3 x 3 convolutions, each with ReLU, in between group normalization if groups > 0."""
    layers = []
    for i in range(depth):
        conv = nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=bias)
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        norm = [nn.GroupNorm(groups, channels)] if groups else []
        layers.append(nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
    return nn.Sequential(*layers)


def output(channels: int, num: int, prior: float | None = None, kernel: int = 3) -> nn.Conv2d:
    """A last convolution; with a prior its sigmoid starts there (Lin et al., RetinaNet, section 4.1)."""
    conv = nn.Conv2d(channels, num, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))
    return conv


def flat(levels: Sequence[Tensor]) -> Tensor:
    """Levels (B, D, H, W) -> (B, P, D)."""
    return torch.cat([flatten_anchors(level, level.shape[1]) for level in levels], dim=1)


# Targets --------------------------------------------------------------------------------------------------------------


def matched_labels(targets: Sequence[Instances], matched: Sequence[Tensor]) -> Tensor:
    """(M,) labels of all images' matched places, in their order.

    Args:
        matched: (P,) of each image: index of the object, negative where there is none.
    """
    return torch.cat([t.labels.to(index.device)[index[index >= 0]] for t, index in zip(targets, matched, strict=True)])


def matched_boxes(targets: Sequence[Instances], matched: Sequence[Tensor], like: Tensor) -> Tensor:
    """(M, 4) boxes of all images' matched places, in their order, in the type and on the device of ``like``."""
    return torch.cat([t.boxes.to(like)[index[index >= 0]] for t, index in zip(targets, matched, strict=True)])


# Selection ------------------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Detections of one image, the best first, and where they come from."""

    boxes: Tensor  # (N, 4) px, perhaps beyond the image
    labels: Tensor  # (N,) int64
    scores: Tensor  # (N,)
    places: Tensor  # (N,) int64 in 0..P-1

    def take(self, index: Tensor) -> Kept:
        """Those with these numbers, in this order."""
        return Kept(*(column[index] for column in self))

    def clipped(self, size: tuple[int, int]) -> Kept:
        """With boxes cut at the border of an image of this (height, width)."""
        return self._replace(boxes=box_ops.clip(self.boxes, size))


def join_levels(levels: Sequence[Kept], counts: Sequence[int]) -> Kept:
    """Detections of all levels, each with places of its own, of which it has so many."""
    boxes, labels, scores, _ = (torch.cat(column) for column in zip(*levels, strict=True))
    starts = [sum(counts[:i]) for i in range(len(counts))]
    places = torch.cat([level.places + start for level, start in zip(levels, starts, strict=True)])
    return Kept(boxes, labels, scores, places)


def best_pairs(
    scores: Tensor, threshold: float, most: int, order_by: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of class and place above a threshold.

    Args:
        scores: (K, H W).
        order_by: (K, H W) what says which are the best, if not the scores.

    Returns:
        values (of ``order_by`` where it is given), labels and places, best first.
    """
    label, place = torch.nonzero(scores > threshold, as_tuple=True)
    value = (scores if order_by is None else order_by)[label, place]
    order = torch.sort(value, descending=True, stable=True).indices[:most]
    return value[order], label[order], place[order]


def suppress(kept: Kept, limits: Limits) -> Kept:
    """Suppression per class; boxes without area go.

    Args:
        limits: of these, the score threshold is only looked at where suppression lowers scores.
    """
    solid = torch.nonzero((kept.boxes[:, 2:] > kept.boxes[:, :2]).all(1)).squeeze(1)
    index, scores = suppress_boxes(kept.boxes[solid], kept.scores[solid], kept.labels[solid], limits)
    return kept.take(solid[index])._replace(scores=scores)


def detections(sizes: tuple[tuple[int, int], ...], kept: Sequence[Kept]) -> Detections:
    """Of all images, their boxes cut at the border."""
    return Detections.of(sizes, [k.clipped(size)[:3] for k, size in zip(kept, sizes, strict=True)])
