"""RoIAlign for the CPU: a weighted sum of rows, which is what an embedding table does.

RoIAlign (He et al., arXiv 1703.06870) averages a few bilinear samples per bin, so each bin is a sum of
`(2 s)²` pixels with known weights (`s` sampling points per side). With the channels of a pixel next to each
other in memory the map is a table of `H W` rows, the pixels are indices, and `torch.embedding_bag` is a
vectorized, multi-threaded kernel for exactly this sum: 6 to 10 times as fast as the scalar, single-threaded
kernel that walks one channel at a time. The sampling positions are computed in the order of torchvision's
kernel, so that both round alike.

The gradient goes the same way back: each pixel's is the weighted sum of the gradients of the bins that read it, so
with the table of who reads what turned round (a sparse matrix transposed) it is another sum of rows. It is
the same in every run, which a kernel that adds from many threads is not.

Shapes: `B` images, `C` channels, `R` regions, `P` bins per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.accel import is_on

BIN_CHUNK_SIZE = 8192
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
    """Whether `roi_align` here can stand in for torchvision's: channels-last maps on the CPU."""
    learning = torch.is_grad_enabled() and any(f.requires_grad for f in features)
    return (
        is_on("roi_cpu")
        and sampling > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and rois.requires_grad)
        and all(
            f.device.type == "cpu"
            and (f.dtype == torch.float32 or (f.dtype == torch.bfloat16 and not learning))
            and f.is_contiguous(memory_format=torch.channels_last)
            for f in features
        )
    )


def roi_align(features: Sequence[Tensor], scales: Sequence[float], rois: Tensor, levels: Tensor, grid: Grid) -> Tensor:
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
    result: Tensor = _Align.apply(Regions(rois.detach().float(), levels, tuple(scales), grid), *features)
    return result


@dataclass(frozen=True)
class Regions:
    """What is cut out: the arguments of `roi_align` that no gradient flows to."""

    rois: Tensor
    levels: Tensor
    scales: tuple[float, ...]
    grid: Grid


class _Align(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, regions: Regions, *features: Tensor) -> Tensor:
        ctx.regions, ctx.shapes = regions, [f.shape for f in features]
        grid = regions.grid
        # numpy asks the system for huge pages: far fewer page faults than a fresh tensor costs.
        out = np.empty((len(regions.rois), grid.size, grid.size, features[0].shape[1]), np.float32)
        for i, feature in enumerate(features):
            chosen = torch.nonzero(regions.levels == i).squeeze(1)
            if len(chosen):
                bins = _bins(regions.rois[chosen], regions.scales[i], grid)
                _align_into(torch.from_numpy(out), chosen, feature, bins, grid)
        # Turned before it becomes a tensor: a view as the result could not be changed in place where gradients flow.
        return torch.from_numpy(out.transpose(0, 3, 1, 2)).to(features[0].dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        regions, (above,) = ctx.regions, grads
        rows = above.permute(0, 2, 3, 1)
        results: list[Tensor | None] = []
        for i, (shape, is_needed) in enumerate(zip(ctx.shapes, ctx.needs_input_grad[1:], strict=True)):
            chosen = torch.nonzero(regions.levels == i).squeeze(1)
            if is_needed:
                bins = _bins(regions.rois[chosen], regions.scales[i], regions.grid)
                results.append(_gradient(rows[chosen].reshape(-1, rows.shape[-1]), bins, regions.grid, shape))
            else:
                results.append(None)
        return None, *results


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
    step = max(1, BIN_CHUNK_SIZE // grid.size**2)
    for i in range(0, len(where), step):
        part = slice(i, i + step)
        index, weight = _reads((bins[0][part], bins[1][part], bins[2][part]), grid, (h, w))
        out[where[part]] = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight).view(-1, *out.shape[1:])


def _gradient(above: Tensor, bins: Bins, grid: Grid, shape: Sequence[int]) -> Tensor:
    """The gradient (B, C, H, W) of a level from the one of all bins that read it, (R P², C)."""
    from scipy.sparse import csr_matrix  # 10 MB that predicting can do without

    b, c, h, w = shape
    index, weight = _reads(bins, grid, (h, w))
    starts = np.arange(0, index.numel() + 1, index.shape[1])
    reads = csr_matrix((weight.numpy().ravel(), index.numpy().ravel(), starts), shape=(len(above), b * h * w))
    readers = reads.tocsc()
    table = F.embedding_bag(
        torch.from_numpy(readers.indices),
        above.contiguous(),
        torch.from_numpy(readers.indptr),
        mode="sum",
        per_sample_weights=torch.from_numpy(readers.data),
        include_last_offset=True,
    )
    return table.view(b, h, w, c).permute(0, 3, 1, 2)


def _reads(bins: Bins, grid: Grid, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which pixels of the table each bin reads, with what weights: int32 and float, (R P², 4 s²)."""
    image, corner, bin_size = bins
    rows, row_weights = _taps(corner[:, 1], bin_size[:, 1], grid, size[0])
    columns, column_weights = _taps(corner[:, 0], bin_size[:, 0], grid, size[1])
    rows = (rows + image[:, None, None] * size[0]) * size[1]
    index = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weight = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    terms = (2 * grid.sampling) ** 2
    return index.reshape(-1, terms), weight.reshape(-1, terms)


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
