"""Deep watershed: the distance to the object's border, its direction, its levels, and how levels are cut.

Bai, Urtasun: "Deep Watershed Transform for Instance Segmentation", CVPR 2017, arXiv 1611.08303. Targets and losses are
those of the published scripts.

Shapes: (H, W) the image, L levels. Vectors are (x, y) and point inwards, away from the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

BOUNDARIES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 12.0, 15.0, 19.0, 24.0, 30.0, 37.0, 45.0, 54.0)
"""Level i holds distances above the i-th and up to the next, px; the last has no end."""
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
"""Derivative in x."""
SHRINK = 0.999999
"""Unit vectors are made so much shorter before the angle between them is taken, whose slope has no end at 0."""


class WatershedTargets(NamedTuple):
    """What the networks learn, of one image."""

    distance: np.ndarray  # (H, W) float32 px to the nearest pixel of something else, 0 on background
    direction: np.ndarray  # (2, H, W) float32 gradient of the distance
    unit_direction: np.ndarray  # (2, H, W) float32 of length 1 within objects
    level: np.ndarray  # (H, W) uint8
    weight: np.ndarray  # (H, W) float32, 200 / sqrt(area)


def watershed_targets(
    ids: np.ndarray, boundaries: Sequence[float] = BOUNDARIES, min_area: int = 100
) -> WatershedTargets:
    """Maps of an image's objects.

    Args:
        ids: (H, W) integers, 0 is background.
        boundaries: ascending lower bounds of the levels, px.
        min_area: smaller objects have neither distance nor weight, px.

    >>> ids = np.zeros((16, 16), int)
    >>> ids[2:14, 2:14] = 1
    >>> targets = watershed_targets(ids)
    >>> targets.distance.max().item(), int(targets.level.max()), targets.direction.shape
    (6.0, 5, (2, 16, 16))
    """
    distance, weight = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, np.float32)
    direction = np.zeros((2, *ids.shape))
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in box)
        inside = ids[wide] == number
        if inside.sum() < min_area:
            continue
        own = _distance_within(inside)
        distance[wide] += own.astype(np.float32)
        weight[wide][inside] = 200 / np.sqrt(inside.sum())
        for axis in (0, 1):  # x first
            direction[axis][wide] += ndimage.correlate(own, SOBEL if axis == 0 else SOBEL.T, mode="nearest")
    length = np.sqrt((direction**2).sum(0))
    unit = np.where(distance > 0, direction / (length + 1e-12), 0)
    level = np.searchsorted(np.asarray(boundaries), distance, side="left").clip(1) - 1
    return WatershedTargets(
        distance, direction.astype(np.float32), unit.astype(np.float32), level.astype(np.uint8), weight
    )


def _distance_within(inside: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest one outside; the image's border is not outside."""
    if inside.all():
        padded = np.pad(inside, 1)
        return np.asarray(ndimage.distance_transform_edt(padded)[1:-1, 1:-1])
    return np.asarray(ndimage.distance_transform_edt(inside))


def direction_loss(predicted: Tensor, direction: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Squared angle between the vectors, weighted, over the number of pixels of the mask plus one.

    Args:
        predicted, direction: (2, H, W) of any length; mask, weight: (H, W).

    >>> up, mask = torch.tensor([[[0.0]], [[-1.0]]]), torch.ones(1, 1)
    >>> direction_loss(up, up, mask, mask).item() < 1e-4
    True
    """
    a, b = (SHRINK * v / torch.linalg.vector_norm(v, dim=0).clamp(min=1e-12) for v in (predicted, direction))
    angle = torch.acos((a * b).sum(0).clamp(-1, 1))
    return (angle**2 * weight * mask).sum() / (mask.sum() + 1)


def level_scales(num_levels: int) -> list[float]:
    """Low levels, where objects are cut apart, count more: 3, 3, 3, 2, 1, 1 ...

    >>> level_scales(6)
    [3.0, 3.0, 3.0, 2.0, 1.0, 1.0]
    """
    return ([3.0, 3.0, 3.0, 2.0] + [1.0] * num_levels)[:num_levels]


def energy_loss(logits: Tensor, level: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Binary log-losses of every level's softmax probability, weighted, over the sum of the weights plus one.

    Args:
        logits: (L, H, W); level: (H, W) integers; mask, weight: (H, W).

    >>> logits, ones = torch.tensor([[[99.0]], [[-99.0]]]), torch.ones(1, 1)
    >>> energy_loss(logits, torch.zeros(1, 1), ones, ones).item() < 1e-5
    True
    """
    eps = torch.finfo(logits.dtype).eps
    probability = logits.softmax(0).clamp(eps, 1 - eps)
    target = torch.nn.functional.one_hot(level.long(), len(logits)).permute(2, 0, 1).to(probability)
    loss = -(target * probability.log() + (1 - target) * (1 - probability).log())
    scales = torch.tensor(level_scales(len(logits)), dtype=probability.dtype).to(probability.device)
    shown = weight * mask
    return ((loss * scales[:, None, None]).sum(0) * shown).sum() / (shown.sum() + 1)


def cut(
    level: np.ndarray, mask: np.ndarray, threshold: int, min_area: int, dilation: int, hole_area: int = 64
) -> np.ndarray:
    """Objects of one class: what lies above a level, in connected parts, grown back.

    Args:
        level: (H, W); mask: (H, W) bool, the class.
        threshold: levels above it are inside of objects.
        min_area: smaller parts are dropped before holes up to ``hole_area`` px are filled.
        dilation: side of the square by which parts grow; later ones win.

    Returns:
        (H, W) int32 numbers 1..K.

    >>> level = np.zeros((6, 12), int)
    >>> level[1:5, 1:5] = level[1:5, 7:11] = 2
    >>> found = cut(level, level >= 0, threshold=1, min_area=4, dilation=1, hole_area=0)
    >>> np.bincount(found.ravel()).tolist()
    [40, 16, 16]
    """
    from skimage.measure import label

    inside = _without_small((level > threshold) & mask, min_area)
    inside = ~_without_small(~inside, hole_area + 1, connectivity=1)
    parts = label(inside, connectivity=2)  # type: ignore[no-untyped-call]
    result = np.zeros(level.shape, np.int32)
    square = np.ones((dilation, dilation))
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        wide = tuple(slice(max(side.start - dilation, 0), side.stop + dilation) for side in box)
        result[wide][ndimage.binary_dilation(parts[wide] == number, square)] = number
    return result


def _without_small(mask: np.ndarray, min_area: int, connectivity: int = 1) -> np.ndarray:
    from skimage.measure import label

    parts = label(mask, connectivity=connectivity)  # type: ignore[no-untyped-call]
    area = np.bincount(parts.ravel())
    area[0] = 0
    result: np.ndarray = (area >= min_area)[parts]
    return result
