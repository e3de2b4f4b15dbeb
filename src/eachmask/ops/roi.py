"""Cutting regions of interest out of a pyramid, over torchvision's kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.accel import roi_cpu
from eachmask.accel.lazy_dynamo import torchvision

CANONICAL_SIDE, CANONICAL_LEVEL = 224.0, 4
"""A box of 224 x 224 px is pooled from P4 (stride 16), as an ImageNet image was."""


def in_groups(boxes: list[Tensor], at_once: int) -> Iterator[list[Tensor]]:
    """The boxes of all images in runs of so many, for heads that would need too much memory at once.

    Args:
        boxes: (N_b, 4) of each image.

    Yields:
        as many lists as images, most of them empty; one group of nothing where there is no box at all.

    >>> boxes = [torch.zeros(3, 4), torch.zeros(1, 4)]
    >>> [[len(some) for some in group] for group in in_groups(boxes, at_once=2)]
    [[2, 0], [1, 1]]
    """
    total = sum(len(b) for b in boxes)
    for first in range(0, max(total, 1), at_once):
        group, before = [], 0
        for b in boxes:
            group.append(b[max(first - before, 0) : max(first + at_once - before, 0)])
            before += len(b)
        yield group


def roi_levels(boxes: Tensor, num_levels: int, finest: int = 2) -> Tensor:
    """Which level each box is pooled from (Lin et al., arXiv 1612.03144, eq. 1): (N,) 0 .. num_levels - 1.

    Args:
        boxes: (N, 4) px.
        finest: the number of the first level; 2 is P2, stride 4.

    >>> roi_levels(torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 224.0, 224.0]]), num_levels=4).tolist()
    [0, 2]
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + 1e-6)
    return level.clamp(finest, finest + num_levels - 1).to(torch.int64) - finest


def roi_align(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    size: int,
    strides: Sequence[int],
    sampling: int = 2,
    aligned: bool = False,
) -> Tensor:
    """RoIAlign (He et al., arXiv 1703.06870, section 3), every box from the level that fits it.

    Args:
        features: levels (B, C, H_i, W_i), fine to coarse.
        boxes: for each image (N_b, 4) px.
        size: side of the pooled grid.
        strides: of the levels.
        sampling: points per bin and side; 0 takes as many as the bin has pixels.
        aligned: shift by half a pixel (Detectron2's correction); torchvision's models do not.

    Returns:
        (N, C, size, size), images in order.

    >>> column = torch.arange(8.0).expand(1, 1, 8, 8)
    >>> roi_align([column], [torch.tensor([[16.0, 16.0, 48.0, 48.0]])], 2, [8], aligned=True)[0, 0].tolist()
    [[2.5, 4.5], [2.5, 4.5]]
    """
    rois = _rois(features[0], boxes)
    level = _level_of_each(features, boxes, strides)
    if roi_cpu.applies(features, rois, sampling):
        grid = roi_cpu.Grid(size, sampling, aligned)
        return roi_cpu.roi_align(features, [1 / s for s in strides], rois, level, grid)

    def align(feature: Tensor, chosen: Tensor, scale: float) -> Tensor:
        pooled: Tensor = torchvision().ops.roi_align(
            feature, chosen, (size, size), spatial_scale=scale, sampling_ratio=sampling, aligned=aligned
        )
        return pooled

    return _per_level(features, rois, level, strides, align)


def roi_pool(features: Sequence[Tensor], boxes: Sequence[Tensor], size: int, strides: Sequence[int]) -> Tensor:
    """RoIPool (Girshick, Fast R-CNN, arXiv 1504.08083, section 2.1), every box from the level that fits it.

    Quantizes twice, which is what RoIAlign was made to avoid: the box is rounded to whole feature pixels, and its
    division into size x size bins is rounded again; each bin gives its largest value (0 where it is empty).

    Args and result as for :func:`roi_align`.

    >>> column = torch.arange(8.0).expand(1, 1, 8, 8)
    >>> roi_pool([column], [torch.tensor([[16.0, 16.0, 48.0, 48.0]])], 2, [8])[0, 0].tolist()  # the largest of each bin
    [[4.0, 6.0], [4.0, 6.0]]
    """

    def pool(feature: Tensor, chosen: Tensor, scale: float) -> Tensor:
        pooled: Tensor = torchvision().ops.roi_pool(feature, chosen, (size, size), spatial_scale=scale)
        return pooled

    level = _level_of_each(features, boxes, strides)
    return _per_level(features, _rois(features[0], boxes), level, strides, pool)


def roi_warp(features: Sequence[Tensor], boxes: Sequence[Tensor], size: int, strides: Sequence[int]) -> Tensor:
    """RoI warping (Dai, He, Sun, arXiv 1512.04412, eq. 4 - 6): bilinear samples on a grid over the box.

    RoIAlign with one point per bin, but differentiable in the box as well: a later stage can tell the one that
    proposed the box where it should have been. Pixel centers are at .5, as everywhere here.

    Args:
        boxes: for each image (N_b, 4) px, with or without a gradient.

    Other arguments and result as for :func:`roi_align`; beyond the map its border is repeated.

    >>> column = torch.arange(8.0).expand(1, 1, 8, 8)
    >>> box = torch.tensor([[16.0, 16.0, 48.0, 48.0]], requires_grad=True)
    >>> pooled = roi_warp([column], [box], 2, [8])
    >>> [[round(value, 3) for value in row] for row in pooled[0, 0].tolist()]
    [[2.5, 4.5], [2.5, 4.5]]
    >>> pooled.sum().backward()
    >>> box.grad.shape
    torch.Size([1, 4])
    """
    level = _level_of_each(features, [b.detach() for b in boxes], strides)
    counts = [len(b) for b in boxes]
    place = (torch.arange(size, device=features[0].device, dtype=features[0].dtype) + 0.5) / size
    parts, rows = [], []
    first = 0
    for i, (image_boxes, count) in enumerate(zip(boxes, counts, strict=True)):
        for j, (feature, stride) in enumerate(zip(features, strides, strict=True)):
            chosen = torch.nonzero(level[first : first + count] == j).squeeze(1)
            x1, y1, x2, y2 = image_boxes[chosen].to(feature.dtype).unbind(1)
            height, width = feature.shape[-2:]
            x = (x1[:, None] + (x2 - x1)[:, None] * place) * (2 / (stride * width)) - 1
            y = (y1[:, None] + (y2 - y1)[:, None] * place) * (2 / (stride * height)) - 1
            grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
            parts.append(_sampled(feature[i], grid))
            rows.append(chosen + first)
        first += count
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]


def _sampled(feature: Tensor, grid: Tensor) -> Tensor:
    """(C, H, W) read at (N, size, size, 2) places from -1 to 1 -> (N, C, size, size)."""
    num, size = grid.shape[:2]
    if not num:
        return feature.new_zeros((0, len(feature), size, size)) + feature.sum() * 0
    flat = grid.reshape(1, num * size, size, 2)
    read = F.grid_sample(feature[None], flat, padding_mode="border", align_corners=False)
    return read[0].view(len(feature), num, size, size).transpose(0, 1)


def _rois(feature: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """(N, 5): number of the image and box, in the feature's type."""
    joined = torch.cat([b.to(feature.dtype) for b in boxes])
    counts = torch.tensor([len(b) for b in boxes])
    image = torch.repeat_interleave(torch.arange(len(boxes)), counts).to(joined)
    return torch.cat([image[:, None], joined], dim=1)


def _level_of_each(features: Sequence[Tensor], boxes: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    joined = torch.cat(list(boxes)).float()
    if len(features) == 1:
        return torch.zeros(len(joined), dtype=torch.int64, device=joined.device)
    return roi_levels(joined, len(features), int(math.log2(strides[0])))


def _per_level(
    features: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: Sequence[int],
    cut: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Cut the regions of every level and put them back in order."""
    if len(features) == 1:
        return cut(features[0], rois, 1 / strides[0])
    parts = []
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        chosen = torch.nonzero(level == i).squeeze(1)
        parts.append((chosen, cut(feature, rois[chosen], 1 / stride)))
    order = torch.cat([chosen for chosen, _ in parts])
    return torch.cat([pooled for _, pooled in parts])[torch.argsort(order)]
