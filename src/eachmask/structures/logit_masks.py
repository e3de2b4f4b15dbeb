"""LogitMasks: the coarse logits of a promptable network, kept as they are until somebody needs the pixels.

They are the packed form of its answers, and also what it wants to hear again when an answer is corrected.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.rle import RLE
from eachmask.structures.soft_masks import Canvas, SoftMasks

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
            level = float(np.nextafter(np.float32(logit(self.threshold)), np.float32(np.inf)))
            canvas = self.canvas
            maps = SoftMasks.from_maps(self.logits.float(), canvas.padded, canvas.valid, level, canvas.samples)
            self._rle = maps.resize(self.size).to_rle()
        return self._rle


def logit(probability: float) -> float:
    """Undo of the sigmoid, finite for 0 and 1 too."""
    kept = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))


def logits_of(masks: Masks, grid: tuple[int, int], padded: tuple[int, int], valid: tuple[int, int]) -> Tensor:
    """Masks as a network wants to hear them: (N, h, w) logits on the grid over its padded image.

    Its own earlier answers stay what they were; other masks become :data:`ROUGH` where they cover a cell, and less
    where they cover a part of it.

    Args:
        masks: on any canvas that shows the valid part of the padded image.
        grid, padded, valid: (height, width) in cells, in pixels, and of the part that is image.
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
