"""RoI mask probabilities -> column-major COCO runs of the whole image, without a canvas.

A mask head answers with a small grid per box. Up-sampled bilinearly, that grid is *piecewise linear*
along every image column: between two neighboring grid rows it can cross the threshold at most once,
and the crossing can be solved for. So instead of evaluating every pixel of every box (box height x
box width), this module interpolates only the grid rows along x (grid height x box width), looks for
sign changes between neighboring rows, and turns each crossing into one run boundary. Cost and memory
grow with the box *perimeters*, never with the canvas.

Both conventions in use are the same computation on a grid surrounded by one ring of zeros:

* ``"accurate"`` samples at pixel centers relative to the float box (what ``grid_sample`` with
  ``align_corners=False`` and zero padding does) and keeps ``value >= threshold``;
* ``"compatible"`` is torchvision's ``paste_masks_in_image``: the box grows with the ring, its corners
  are truncated to integers, the grid is resized to that integer box, and ``value > threshold`` is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

_VALUES_PER_CHUNK = 1 << 18
"""Interpolated grid values held at once: 1 MB of float32 stays in the second-level cache."""

_NEAR_PIXEL = 1e-3
"""A crossing this close to a pixel center (in pixels) is decided by evaluating that pixel."""


def paste_to_rle(
    probabilities: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    threshold: float = 0.5,
    mode: str = "accurate",
) -> tuple[NDArray[np.uint32], Ints]:
    """Paste mask probabilities into their boxes and return the masks of the image as COCO runs.

    Args:
        probabilities: (N, h, w) floats in 0..1, any floating dtype, any device.
        boxes: (N, 4) xyxy in pixels of the image; may reach beyond it. A box that is not finite, or
            (in ``"accurate"`` mode) has no area, gives an empty mask.
        size: (height, width) of the image.
        threshold: in (0, 1].
        mode: ``"accurate"`` or ``"compatible"`` (see the module's docstring).

    Returns:
        ``counts``, the packed uint32 run lengths of all masks (column-major, starting with background,
        in the canonical form pycocotools writes), and ``offsets`` int64 (N + 1,): mask ``i`` is
        ``counts[offsets[i]:offsets[i + 1]]``.

    Raises:
        ValueError: wrong shapes, a threshold outside (0, 1], an unknown mode, or an image of 2**32
            pixels or more, which uint32 runs cannot hold.

    >>> counts, offsets = paste_to_rle(torch.ones(1, 4, 4), torch.tensor([[1.0, 0.0, 3.0, 4.0]]), (4, 4))
    >>> counts.tolist(), offsets.tolist()  # column by column: 4 of background, 8 of the object, 4 of background
    ([4, 8, 4], [0, 3])
    """
    _check(probabilities, boxes, size, threshold, mode)
    grid = _ringed_columns(probabilities)
    along_x, along_y = _axes(boxes.detach().cpu(), probabilities.shape[1:], size, mode == "compatible")
    rule = _Rule(np.float32(threshold), strict=mode == "compatible")
    toggles = [_toggles(grid, along_x, along_y, size[0], rule, chunk) for chunk in _chunks(along_x, grid)]
    masks = np.concatenate([np.empty(0, np.int64), *(mask for mask, _ in toggles)])
    positions = np.concatenate([np.empty(0, np.int64), *(position for _, position in toggles)])
    return _runs(masks, positions, len(grid), size[0] * size[1])


@dataclass(frozen=True)
class _Axis:
    """How the ringed grids lie along one image axis; every array is (N,), one entry per mask.

    Pixel ``p`` samples the grid at ``scale * (p - origin + 0.5) + shift`` (0 = the ring's first row).
    """

    origin: Floats
    scale: Floats
    shift: float
    low: Ints  # first pixel of the image that the grid can reach
    high: Ints  # one past the last

    def sample(self, pixels: NDArray[Any], masks: Ints) -> Floats:
        """Grid coordinates of ``pixels`` (K,) of ``masks`` (K,)."""
        offset = pixels - self.origin[masks] + self.scale.dtype.type(0.5)
        result: Floats = self.scale[masks] * offset + self.scale.dtype.type(self.shift)
        return result

    def locate(self, coordinates: Floats, masks: Ints) -> Floats:
        """The inverse of ``sample``: pixel positions (not whole numbers) of grid coordinates."""
        pixels: Floats = (coordinates - self.shift) / self.scale[masks] + (self.origin[masks] - 0.5)
        return pixels


@dataclass(frozen=True)
class _Rule:
    """Which values are foreground: ``> threshold`` if strict, else ``>= threshold``."""

    threshold: np.float32
    strict: bool

    def __call__(self, values: Floats) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = values > self.threshold if self.strict else values >= self.threshold
        return inside


def _check(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float, mode: str) -> None:
    if probabilities.ndim != 3 or boxes.shape != (len(probabilities), 4):
        shapes = f"{tuple(probabilities.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"expected probabilities (N, h, w) and boxes (N, 4), got {shapes}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    if mode not in ("accurate", "compatible"):
        raise ValueError(f'mode must be "accurate" or "compatible", got {mode!r}')
    if size[0] * size[1] >= 1 << 32:
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels is too large for uint32 runs")


def _ringed_columns(probabilities: Tensor) -> NDArray[np.float32]:
    """(N, h, w) -> (N, w + 2, h + 2) float32 with a ring of zeros, columns contiguous."""
    columns = probabilities.detach().to("cpu", torch.float32).transpose(1, 2).numpy()
    num, width, height = columns.shape
    grid = np.zeros((num, width + 2, height + 2), np.float32)
    grid[:, 1:-1, 1:-1] = columns
    return grid


def _axes(boxes: Tensor, grid: torch.Size, size: tuple[int, int], compatible: bool) -> tuple[_Axis, _Axis]:
    """The x and the y axis of grids of ``grid`` = (h, w) in ``boxes``."""
    finite = torch.isfinite(boxes).all(dim=1)
    boxes = torch.where(finite[:, None], boxes, torch.zeros((), dtype=boxes.dtype))
    valid = finite.numpy()
    if not compatible:
        edges = boxes.double().numpy()
        along_x = _float_axis(edges[:, 0], edges[:, 2], grid[1], size[1])
        along_y = _float_axis(edges[:, 1], edges[:, 3], grid[0], size[0])
    else:
        boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
        along_x = _integer_axis(boxes[:, 0], boxes[:, 2], grid[1], size[1])
        along_y = _integer_axis(boxes[:, 1], boxes[:, 3], grid[0], size[0])
    visible = valid & (along_x.low < along_x.high) & (along_y.low < along_y.high)
    return _only(along_x, visible), _only(along_y, visible)


def _only(axis: _Axis, visible: NDArray[np.bool_]) -> _Axis:
    """``axis`` with no reachable pixels for the masks that are not visible."""
    return _Axis(axis.origin, axis.scale, axis.shift, axis.low * visible, axis.high * visible)


def _float_axis(start: Floats, stop: Floats, num_cells: int, limit: int) -> _Axis:
    """Pixel centers relative to a float box; the ring reaches half a cell beyond the box."""
    length = stop - start
    positive = length > 0
    cell = np.where(positive, length, 1) / num_cells
    low = np.clip(np.ceil(start - 0.5 - 0.5 * cell), 0, limit)
    high = np.clip(np.floor(stop - 0.5 + 0.5 * cell) + 1, 0, limit)
    return _Axis(start, 1 / cell, 0.5, low.astype(np.int64), (high * positive).astype(np.int64))


def _integer_axis(start: Tensor, stop: Tensor, num_cells: int, limit: int) -> _Axis:
    """torchvision's integer box (corners included) around the ringed grid.

    The arithmetic stays in the boxes' own precision and order, since truncation magnifies rounding.
    """
    half = (stop - start) * 0.5 * ((num_cells + 2) / num_cells)
    center = (stop + start) * 0.5
    bound = float(1 << 40)  # far outside any image, and safe to truncate
    first = (center - half).clamp(-bound, bound).to(torch.int64).numpy()
    last = (center + half).clamp(-bound, bound).to(torch.int64).numpy()
    scale = np.float32(num_cells + 2) / np.maximum(last - first + 1, 1).astype(np.float32)
    low, high = np.clip(first, 0, limit), np.clip(last + 1, 0, limit)
    return _Axis(first.astype(np.float32), scale, -0.5, low, high)


def _chunks(along_x: _Axis, grid: NDArray[np.float32]) -> Iterator[Ints]:
    """Groups of visible masks (indices) whose interpolated columns fit the chunk size together."""
    visible = np.flatnonzero(along_x.high > along_x.low)
    values = np.cumsum((along_x.high - along_x.low)[visible]) * grid.shape[2]
    cuts = np.flatnonzero(np.diff(values // _VALUES_PER_CHUNK)) + 1
    yield from (group for group in np.split(visible, cuts) if len(group))


def _toggles(
    grid: NDArray[np.float32], along_x: _Axis, along_y: _Axis, height: int, rule: _Rule, chunk: Ints
) -> tuple[Ints, Ints]:
    """Where the masks of ``chunk`` change between background and foreground.

    Returns the mask index and the column-major pixel position of each change, in scan order. Changes
    at equal positions cancel each other in pairs.
    """
    mask_of, x = _columns(along_x, chunk)
    values = _interpolate_rows(grid, along_x, mask_of, x)
    inside = rule(values)
    # The ring is background, so a column starts and ends outside and its changes come in pairs.
    change = np.flatnonzero(inside[:, 1:] != inside[:, :-1])
    column = change // (values.shape[1] - 1)
    row = change - column * (values.shape[1] - 1)
    before, after = values.reshape(-1)[change + column], values.reshape(-1)[change + column + 1]
    masks = mask_of[column]
    y = _crossings(along_y, masks, row, (before, after), rule)
    y = np.clip(y, along_y.low[masks], along_y.high[masks])
    return masks, x[column] * height + y


def _columns(along_x: _Axis, chunk: Ints) -> tuple[Ints, Ints]:
    """The mask index and the x of every image column that the masks of ``chunk`` touch."""
    low, num = along_x.low[chunk], (along_x.high - along_x.low)[chunk]
    start = np.cumsum(num) - num
    return np.repeat(chunk, num), np.arange(num.sum()) + np.repeat(low - start, num)


def _interpolate_rows(grid: NDArray[np.float32], along_x: _Axis, masks: Ints, x: Ints) -> NDArray[np.float32]:
    """The grids interpolated along x only: (num columns, grid height + 2)."""
    num_knots = grid.shape[1]
    where = np.clip(along_x.sample(x.astype(along_x.scale.dtype), masks), 0, num_knots - 1)
    left = np.minimum(where.astype(np.int64), num_knots - 2)
    weight = (where - left).astype(np.float32)[:, None]
    rows = grid.reshape(-1, grid.shape[2])
    index = masks * num_knots + left
    values: NDArray[np.float32] = rows.take(index, axis=0)
    values *= np.float32(1) - weight
    right = rows.take(index + 1, axis=0)
    right *= weight
    values += right
    return values


def _crossings(along_y: _Axis, masks: Ints, row: Ints, values: tuple[Floats, Floats], rule: _Rule) -> Ints:
    """First pixel y at or after each crossing of the line between grid rows ``row`` and ``row + 1``."""
    before, after = values[0].astype(np.float64), values[1].astype(np.float64)
    exact = along_y.locate(row + (float(rule.threshold) - before) / (after - before), masks)
    first: Ints = np.ceil(exact).astype(np.int64)
    nearest = np.rint(exact)
    near = np.flatnonzero(np.abs(exact - nearest) < _NEAR_PIXEL)
    if len(near):  # rounding decides here, so decide with the value an up-sampled canvas would hold
        pixel = nearest[near].astype(along_y.scale.dtype)
        weight = (along_y.sample(pixel, masks[near]) - row[near]).astype(np.float32)
        value = (np.float32(1) - weight) * values[0][near] + weight * values[1][near]
        changed = rule(value) == rule(values[1][near])
        first[near] = pixel.astype(np.int64) + ~changed
    return first


def _runs(masks: Ints, positions: Ints, num: int, num_pixels: int) -> tuple[NDArray[np.uint32], Ints]:
    """Pack scan-ordered toggles of ``num`` masks into counts and offsets."""
    stride = num_pixels + 1  # one more than the last position: toggles of two masks never coincide
    toggles = np.maximum.accumulate(masks * stride + positions)
    toggles = _cancel_pairs(toggles)
    # The end of each mask closes its last run; if the mask reached it, the toggle there is that end.
    ends = np.arange(1, num + 1) * stride - 1
    reached = np.isin(ends, toggles, assume_unique=True) & (num_pixels > 0)
    bounds = np.sort(np.concatenate([toggles, ends[~reached]]), kind="stable")
    offsets = np.concatenate([[0], np.searchsorted(bounds, ends, side="right")]).astype(np.int64)
    counts = np.diff(bounds, prepend=0)
    counts[offsets[1:-1]] -= 1  # the step over the gap between two masks
    return counts.astype(np.uint32), offsets


def _cancel_pairs(toggles: Ints) -> Ints:
    """Sorted toggles with those at equal positions removed in pairs."""
    fresh = np.flatnonzero(np.diff(toggles, prepend=-1))
    if len(fresh) == len(toggles):
        return toggles
    odd = np.diff(fresh, append=len(toggles)) % 2 == 1
    single: Ints = toggles[fresh[odd]]
    return single
