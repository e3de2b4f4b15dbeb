"""LogitMasks: the coarse logits of a promptable network, kept as they are until somebody needs the pixels.

They are the packed form of its answers, and also what it wants to hear again when an answer is corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures.bitmaps import Bitmaps
from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.rle import RLE
from eachmask.structures.soft_masks import Canvas

_PIXELS_CHUNK_SIZE = 1 << 22
"""Bool pixels held before they become runs."""

ROUGH = 8.0
"""Logit of what a rough mask covers; beside it, the negative of that."""


class LogitMasks(Masks):
    """N maps of logits over the padded image that the network saw.

    Args:
        logits: (N, h, w).
        canvas: how cells become pixels.
        threshold: probability; a pixel belongs to the object above it.

    Raises:
        ValueError: the maps are not of the canvas's grid.

    >>> canvas = Canvas((2, 2), (8, 8), (8, 8), (16, 16))
    >>> masks = LogitMasks(torch.full((1, 2, 2), 4.0), canvas)
    >>> masks.area().tolist(), masks.resize((4, 4)).area().tolist()
    ([256], [16])
    """

    def __init__(self, logits: Tensor, canvas: Canvas, threshold: float = 0.5) -> None:
        if tuple(logits.shape[1:]) != canvas.grid:
            raise ValueError(f"maps of {tuple(logits.shape[1:])} cells on a grid of {canvas.grid}")
        self.logits, self.canvas, self.threshold = logits, canvas, threshold
        self.size = (int(canvas.size[0]), int(canvas.size[1]))
        self._rle: RLE | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Index) -> LogitMasks:
        chosen = torch.from_numpy(as_index(index, len(self))).to(self.logits.device)
        return LogitMasks(self.logits[chosen], self.canvas, self.threshold)

    def to(self, device: torch.device | str) -> LogitMasks:
        """The logits on another device."""
        return LogitMasks(self.logits.to(device), self.canvas, self.threshold)

    def resize(self, size: tuple[int, int]) -> LogitMasks:
        """Only the last size changes: pixels are never resized twice."""
        return LogitMasks(self.logits, replace(self.canvas, size=(int(size[0]), int(size[1]))), self.threshold)

    def to_rle(self) -> RLE:
        """The pixels above the threshold, object by object, each in its own window."""
        if self._rle is None:
            self._rle = paint(self.logits.float() - logit(self.threshold), self.canvas).rle
        return self._rle


def logit(probability: float) -> float:
    """Undo of the sigmoid, finite for 0 and 1 too.

    >>> logit(0.5), round(logit(1.0), 2)
    (0.0, 13.82)
    """
    kept = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))


def logits_of(masks: Masks, grid: tuple[int, int], padded: tuple[int, int], valid: tuple[int, int]) -> Tensor:
    """Masks as a network wants to hear them: (N, h, w) logits on the grid over its padded image.

    Its own earlier answers stay what they were; other masks become :data:`ROUGH` where they cover a cell, and less
    where they cover a part of it.

    Args:
        masks: on any canvas that shows the valid part of the padded image.
        grid, padded, valid: (height, width) in cells, in pixels, and of the part that is image.

    >>> masks = RLE.from_bitmaps(np.ones((1, 8, 8), bool))
    >>> logits_of(masks, (2, 2), (8, 8), (8, 8)).round().tolist()
    [[[8.0, 8.0], [8.0, 8.0]]]
    """
    if isinstance(masks, LogitMasks) and (masks.canvas.grid, masks.canvas.valid) == (grid, valid):
        return masks.logits.float()
    rows, columns = (max(1, round(g * v / p)) for g, v, p in zip(grid, valid, padded, strict=True))
    logits = torch.full((len(masks), *grid), -ROUGH)
    for i, one in enumerate(masks):
        bitmaps = one.to_bitmaps()
        crop, (x, y) = bitmaps.crops[0], bitmaps.origins[0].tolist()
        whole = torch.zeros(1, 1, *masks.size)
        whole[0, 0, y : y + crop.shape[0], x : x + crop.shape[1]] = torch.from_numpy(np.ascontiguousarray(crop)).float()
        covered = F.interpolate(whole, (rows, columns), mode="bilinear", align_corners=False, antialias=True)[0, 0]
        logits[i, :rows, :columns] = (2 * covered - 1) * ROUGH
    return logits


class Painted(NamedTuple):
    """Pixels of N masks, and how many lie above other levels."""

    rle: RLE
    areas: NDArray[np.int64]  # (N, levels)


def paint(logits: Tensor, canvas: Canvas, levels: Sequence[float] = ()) -> Painted:
    """Masks of what lies above 0, and the number of pixels above other levels, without a map of the image's size.

    Args:
        logits: (N, h, w) on the canvas's grid.
        levels: logits.

    >>> painted = paint(torch.full((1, 2, 2), 4.0), Canvas((2, 2), (8, 8), (8, 8), (8, 8)), levels=[5.0])
    >>> painted.rle.area().tolist(), painted.areas.tolist()
    ([64], [[0]])
    """
    values = logits.detach().to("cpu", torch.float32).numpy()
    areas = np.zeros((len(values), len(levels)), np.int64)
    groups: list[RLE] = [RLE.empty(canvas.size)]
    crops: list[NDArray[np.bool_]] = []
    corners: list[tuple[int, int]] = []
    for i, one in enumerate(values):
        crop, corner = _painted(one, canvas, np.array(levels, np.float32), areas[i])
        crops.append(crop)
        corners.append(corner)
        if i + 1 == len(values) or sum(c.size for c in crops) > _PIXELS_CHUNK_SIZE:
            groups.append(Bitmaps(crops, np.array(corners, np.int32), canvas.size).to_rle())
            crops, corners = [], []
    return Painted(Masks.cat(groups), areas)


def _painted(
    values: NDArray[np.float32], canvas: Canvas, levels: NDArray[np.float32], areas: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """One mask's pixels (h, w), columns contiguous, in the window that any level reaches, and its (x, y) corner."""
    seen = values > min(0.0, *levels.tolist(), 0.0)
    if canvas.samples == "cubic":  # may rise above a level between cells that do not
        seen = np.ones_like(seen)
    if not seen.any():
        return np.zeros((0, 0), bool), (0, 0)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    along_y, along_x = canvas.axes
    y1, y2 = along_y.window(int(rows[0]), int(rows[-1]) + 1)
    x1, x2 = along_x.window(int(columns[0]), int(columns[-1]) + 1)
    if y2 <= y1 or x2 <= x1:
        return np.zeros((0, 0), bool), (0, 0)
    tall = np.empty((values.shape[1], y2 - y1), np.float32)
    for part, weights, cells in along_y.strips_within((y1, y2), 0, values.shape[0]):
        np.matmul(values[cells].T, weights.T, out=tall[:, part])
    pixels = np.empty((x2 - x1, y2 - y1), bool)
    for part, weights, cells in along_x.strips_within((x1, x2), 0, values.shape[1]):
        strip = weights @ tall[cells]
        np.greater(strip, 0, out=pixels[part])
        for k, level in enumerate(levels):
            areas[k] += np.count_nonzero(strip > level)
    return pixels.T, (x1, y1)
