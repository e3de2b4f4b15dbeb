"""RoIAlign for the processor: a weighted sum of rows, which is what an embedding table does.

RoIAlign (He et al., arXiv 1703.06870) averages a few bilinear samples per bin, so each bin is a sum of
`(2 s)²` pixels with known weights (`s` sampling points per side). With the channels of a pixel next to each
other in memory the map is a table of `H W` rows, the pixels are indices, and `torch.embedding_bag` is a
vectorised, multi-threaded kernel for exactly this sum: 6 to 10 times as fast as the scalar, single-threaded
kernel that walks one channel at a time. The sampling positions are computed in the order of torchvision's
kernel, so that both round alike.

Shapes: `B` images, `C` channels, `R` regions, `P` bins per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.ops.winograd import empty_map

_BINS_AT_ONCE = 8192
"""Bins per call (8 MB for 256 channels): the result of a call is still in the cache when it is put in place."""


@dataclass(frozen=True)
class Grid:
    """How a region is sampled."""

    size: int
    """P, bins per side."""
    sampling: int = 2
    """Points per bin and side."""
    aligned: bool = False
    """Shift by half a pixel."""


def applies(features: Sequence[Tensor], rois: Tensor, sampling: int) -> bool:
    """Whether `roi_align` here can stand in for torchvision's: channels-last maps on the CPU, no gradients."""
    return (
        sampling > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (rois.requires_grad or any(f.requires_grad for f in features)))
        and all(
            f.device.type == "cpu"
            and f.dtype in (torch.float32, torch.bfloat16)
            and f.is_contiguous(memory_format=torch.channels_last)
            for f in features
        )
    )


def roi_align(
    features: Sequence[Tensor], scales: Sequence[float], rois: Tensor, levels: Tensor, grid: Grid
) -> Tensor:
    """RoIAlign, each region from its level; equal to torchvision's up to the order of summation.

    Args:
        features: levels (B, C, H_i, W_i) for which `applies` holds.
        scales: pixels of each level per pixel of the image, 1 / stride.
        rois: (R, 5): image index, then xyxy in pixels of the image.
        levels: (R,) index of the level of each region.
        grid: the bins.

    Returns:
        (R, C, P, P) in channels_last memory, of the type of the features.
    """
    out = empty_map((len(rois), grid.size, grid.size, features[0].shape[1]))
    for i, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        chosen = torch.nonzero(levels == i).squeeze(1)
        if len(chosen):
            _align_into(out, chosen, feature, _bins(rois[chosen].float(), scale, grid), grid)
    return out.permute(0, 3, 1, 2).to(features[0].dtype)


Bins = tuple[Tensor, Tensor, Tensor]
"""Of each region: image (R,) int32; top left corner (R, 2) and size (R, 2) of the first bin, as (x, y) on the map."""


def _bins(rois: Tensor, scale: float, grid: Grid) -> Bins:
    offset = 0.5 if grid.aligned else 0.0
    corner, end = rois[:, 1:3] * scale - offset, rois[:, 3:5] * scale - offset
    extent = end - corner
    if not grid.aligned:
        extent = extent.clamp(min=1.0)  # torchvision's guard against empty regions
    return rois[:, 0].to(torch.int32), corner, extent / grid.size


def _align_into(out: Tensor, where: Tensor, feature: Tensor, bins: Bins, grid: Grid) -> None:
    """Write the regions pooled from `feature` to the rows `where` of `out`."""
    _, c, h, w = feature.shape
    table = feature.detach().permute(0, 2, 3, 1).reshape(-1, c).float()
    image, corner, bin_size = bins
    rows, row_weights = _taps(corner[:, 1], bin_size[:, 1], grid, h)
    columns, column_weights = _taps(corner[:, 0], bin_size[:, 0], grid, w)
    rows = (rows + image[:, None, None] * h) * w
    terms = (2 * grid.sampling) ** 2
    step = max(1, _BINS_AT_ONCE // grid.size**2)
    for i in range(0, len(where), step):
        part = slice(i, i + step)
        index = rows[part, :, None, :, None] + columns[part, None, :, None, :]
        weight = row_weights[part, :, None, :, None] * column_weights[part, None, :, None, :]
        summed = F.embedding_bag(
            index.reshape(-1, terms), table, mode="sum", per_sample_weights=weight.reshape(-1, terms)
        )
        out[where[part]] = summed.view(-1, *out.shape[1:])


def _taps(start: Tensor, step: Tensor, grid: Grid, length: int) -> tuple[Tensor, Tensor]:
    """Along one axis: which pixels each bin reads, with what weights: int32 and float, (R, P, 2 s).

    A sample outside [-1, length] counts as zero; one within a pixel of the border takes the border's value.
    """
    bins = torch.arange(grid.size, dtype=start.dtype)[None, :, None]
    within = (torch.arange(grid.sampling, dtype=start.dtype) + 0.5)[None, None]
    step = step[:, None, None]
    position = start[:, None, None] + bins * step + within * step / grid.sampling
    inside = (position >= -1.0) & (position <= length)
    position = position.clamp(min=0.0)
    low = position.to(torch.int32).clamp(0, length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = torch.where(low == length - 1, torch.zeros_like(position), position - low)
    weight = torch.stack([1 - share, share], dim=-1) * (inside / grid.sampling)[..., None]
    return torch.stack([low, high], dim=-1).flatten(2), weight.flatten(2)
