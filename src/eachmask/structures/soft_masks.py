"""SoftMasks: what a map-style head predicts, kept coarse until somebody needs the pixels.

SOLO, YOLACT, CondInst and their kin draw every object on one map of the whole image, a few pixels per cell. The map
reaches the user's image by bilinear resizing, twice: to the padded tensor that the network saw, of which the valid part
is cut out, and then to the original image. Both are linear and go along x and y apart, so one small matrix per axis
says all, and each object needs it only where its own cells can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.structures.bitmaps import Bitmaps
from eachmask.structures.masks import Index, Masks, as_index
from eachmask.structures.rle import RLE

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Samples = Literal["centers", "corners", "direct", "cubic"]

_STRIP = 64
"""Pixels whose weights form one small matrix; they read only a few neighboring cells."""

_PIXELS_CHUNK_SIZE = 1 << 22
"""Bool pixels held before they become runs."""


@dataclass(frozen=True)
class Canvas:
    """How the cells of a map become the pixels of an image; all sizes are (height, width).

    >>> Canvas(grid=(16, 16), padded=(64, 64), valid=(48, 64), size=(480, 640)).samples
    'centers'
    """

    grid: tuple[int, int]
    """Cells of the map."""
    padded: tuple[int, int]
    """The map is first resized to this ..."""
    valid: tuple[int, int]
    """... the top-left part of which is cut out ..."""
    size: tuple[int, int]
    """... and resized to this."""
    samples: Samples = "centers"
    """The first resizing: ``centers`` as ``F.interpolate`` with ``align_corners=False``; ``corners`` puts cell i at
    pixel (i + 1/2) * stride instead of (i + 1/2) * stride - 1/2 (CondInst's aligned resizing). ``direct`` and
    ``cubic`` go from the cells to ``size`` in one step, bilinear (SAM 2) or bicubic (EfficientSAM), where all that was
    padded is valid."""

    @property
    def axes(self) -> tuple[_Axis, _Axis]:
        """Of the rows and of the columns."""
        return _Axis.of(self, 0), _Axis.of(self, 1)


class SoftMasks(Masks):
    """N coarse maps, each cropped to the cells that matter.

    Args:
        crops: N maps (h, w) of any sizes (also empty), usually probabilities.
        origins: (N, 2) int, column and row of each crop's first cell.
        canvas: how cells become pixels.
        threshold: a pixel belongs to the object from this value on.
        outside: value of the maps beyond the crops; below the threshold.

    Raises:
        ValueError: crops and origins do not pair off, or all that is outside would belong to every object.

    >>> maps = torch.zeros(1, 4, 4)
    >>> maps[0, :, :2] = 1.0
    >>> masks = SoftMasks.from_maps(maps, padded=(16, 16), valid=(16, 16)).resize((32, 32))
    >>> masks.area().tolist(), masks.boxes().tolist()
    ([512], [[0.0, 0.0, 16.0, 32.0]])
    """

    def __init__(
        self, crops: Sequence[Tensor], origins: Tensor, canvas: Canvas, threshold: float = 0.5, outside: float = 0.0
    ) -> None:
        if len(crops) != len(origins):
            raise ValueError(f"{len(crops)} crops at {len(origins)} places")
        if outside >= threshold:
            raise ValueError(f"maps that are {outside} outside of their crops, where {threshold} is foreground")
        self.crops, self.origins, self.canvas = list(crops), origins.detach().cpu().reshape(-1, 2), canvas
        self.threshold, self.outside = threshold, outside
        self.size = (int(canvas.size[0]), int(canvas.size[1]))
        self._rle: RLE | None = None

    @staticmethod
    def from_maps(
        maps: Tensor,
        padded: tuple[int, int],
        valid: tuple[int, int],
        threshold: float = 0.5,
        samples: Samples = "centers",
    ) -> SoftMasks:
        """Crop whole maps, losing nothing: bilinear values reach the threshold only near a cell that does.

        Args:
            maps: (N, rows, columns) probabilities, or logits with the logit of the threshold.
            padded, valid: (height, width), see :class:`Canvas`; ``size`` is ``valid`` until :meth:`resize`.
            threshold: a pixel belongs to the object from this value on.
            samples: see :class:`Canvas`.
        """
        rows, columns = (int(side) for side in maps.shape[1:])
        canvas = Canvas((rows, columns), padded, valid, valid, samples)
        high = maps >= threshold
        spans = []
        for seen, cells, pixels in ((high.any(1), columns, padded[1]), (high.any(2), rows, padded[0])):
            # A pixel mixes two neighboring pixels of two neighboring cells each.
            spans.append(_span(seen, margin=1 + max(1, -(-cells // pixels))))
        (left, right), (top, bottom) = spans
        windows = torch.stack([left, top, right, bottom], 1).tolist()
        crops = [maps[i, y1:y2, x1:x2].clone() for i, (x1, y1, x2, y2) in enumerate(windows)]
        outside = min(0.0, threshold - 1)
        return SoftMasks(crops, torch.stack([left, top], 1), canvas, threshold, outside)

    @staticmethod
    def join(parts: Sequence[SoftMasks]) -> SoftMasks:
        """All parts' masks behind one another, still coarse: maps may be made and cropped in groups.

        Raises:
            ValueError: no parts, or different canvases or thresholds.
        """
        if not parts:
            raise ValueError("nothing to join: the canvas would be unknown")
        first = parts[0]
        for part in parts:
            if (part.canvas, part.threshold, part.outside) != (first.canvas, first.threshold, first.outside):
                raise ValueError(f"coarse maps on {part.canvas} and on {first.canvas}, or of different thresholds")
        return first._with([crop for part in parts for crop in part.crops], torch.cat([p.origins for p in parts]))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: Index) -> SoftMasks:
        chosen = as_index(index, len(self))
        return self._with([self.crops[i] for i in chosen], self.origins[torch.from_numpy(chosen)])

    def to(self, device: torch.device | str) -> SoftMasks:
        """The crops on another device."""
        return self._with([crop.to(device) for crop in self.crops], self.origins)

    def resize(self, size: tuple[int, int]) -> SoftMasks:
        """Only the last size changes: pixels are never resized twice."""
        return self._with(self.crops, self.origins, replace(self.canvas, size=(int(size[0]), int(size[1]))))

    def to_rle(self) -> RLE:
        """The pixels of each object in its own window, one object at a time."""
        if self._rle is None:
            groups: list[RLE] = []
            crops: list[NDArray[np.bool_]] = []
            corners: list[tuple[int, int]] = []
            for i in range(len(self)):
                crop, corner = self._paint(i)
                crops.append(crop)
                corners.append(corner)
                if i + 1 == len(self) or sum(c.size for c in crops) > _PIXELS_CHUNK_SIZE:
                    groups.append(Bitmaps(crops, np.array(corners, np.int32), self.size).to_rle())
                    crops, corners = [], []
            self._rle = Masks.cat(groups) if groups else RLE.empty(self.size)
        return self._rle

    def rough_boxes(self) -> Tensor:
        """(N, 4) float xyxy where the maps cross the threshold, without making pixels: less than a cell off."""
        boxes = np.zeros((len(self), 4), np.float32)
        for i, (crop, origin) in enumerate(zip(self.crops, self.origins.tolist(), strict=True)):
            values = crop.detach().to("cpu", torch.float32).numpy()
            for axis, along in ((0, values), (1, values.T)):
                low, high = _crossings(along, self.threshold)
                edges = self.canvas.axes[1 - axis].pixels(np.array([low, high]) + origin[axis])
                boxes[i, [axis, axis + 2]] = edges if high > low else 0
        return torch.from_numpy(boxes)

    def _paint(self, index: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
        """One object's pixels (h, w), columns contiguous as runs want them, and their (x, y) corner."""
        crop = self.crops[index].detach().to("cpu", torch.float32).numpy()
        left, top = self.origins[index].tolist()
        along_y, along_x = self.canvas.axes
        y1, y2 = along_y.window(top, top + crop.shape[0])
        x1, x2 = along_x.window(left, left + crop.shape[1])
        if y2 <= y1 or x2 <= x1:
            return np.zeros((0, 0), bool), (0, 0)
        values = crop - np.float32(self.outside)
        tall = np.empty((crop.shape[1], y2 - y1), np.float32)
        for part, weights, cells in along_y.strips_within((y1, y2), top, crop.shape[0]):
            np.matmul(values[cells].T, weights.T, out=tall[:, part])
        pixels = np.empty((x2 - x1, y2 - y1), bool)
        level = np.float32(self.threshold - self.outside)
        for part, weights, cells in along_x.strips_within((x1, x2), left, crop.shape[1]):
            np.greater_equal(weights @ tall[cells], level, out=pixels[part])
        return pixels.T, (x1, y1)

    def _with(self, crops: list[Tensor], origins: Tensor, canvas: Canvas | None = None) -> SoftMasks:
        return SoftMasks(crops, origins, canvas or self.canvas, self.threshold, self.outside)


@dataclass(frozen=True)
class _Strip:
    """Some neighboring pixels and the cells that they read."""

    first: int  # pixel
    cell: int  # first cell
    weights: NDArray[np.float32]  # (pixels, cells)


@dataclass(frozen=True)
class _Axis:
    """Both resizings along one axis of the image as one matrix, of which only strips near the diagonal are kept."""

    num_cells: int
    scale: float  # pixels per cell
    lowest: Ints  # (pixels,) first cell that each pixel reads
    highest: Ints  # (pixels,) last cell
    strips: tuple[_Strip, ...]

    @staticmethod
    @lru_cache(maxsize=16)  # a folder's images have few sizes, and each would be computed again for every image
    def of(canvas: Canvas, side: int) -> _Axis:
        """Along the rows (0) or the columns (1)."""
        cells, padded, valid, size = (s[side] for s in (canvas.grid, canvas.padded, canvas.valid, canvas.size))
        if canvas.samples in ("direct", "cubic"):
            neighbors = _cubic if canvas.samples == "cubic" else _bilinear
            index, share = neighbors((np.arange(size) + 0.5) * (cells / max(size, 1)) - 0.5, cells)
        else:  # each pixel of the image reads two of the valid ones, and each of these two cells
            pixel, pixel_share = _bilinear((np.arange(size) + 0.5) * (valid / max(size, 1)) - 0.5, valid)
            center = 0.5 if canvas.samples == "centers" else 0.0
            cell, cell_share = _bilinear((pixel + center) * (cells / max(padded, 1)) - 0.5, cells)
            index = cell.reshape(size, 4)
            share = (cell_share * pixel_share[:, :, None]).reshape(size, 4)
        used = np.where(share != 0, index, index[:, 1:2] if canvas.samples == "cubic" else index[:, :1])
        strips = tuple(
            _strip(first, used[first : first + _STRIP], share[first : first + _STRIP])
            for first in range(0, size, _STRIP)
        )
        scale = padded / max(cells, 1) * size / max(valid, 1)
        return _Axis(cells, scale, used.min(1), used.max(1), strips)

    def window(self, first: int, last: int) -> tuple[int, int]:
        """The pixels that read any cell from first to last (not included)."""
        if last <= first:
            return 0, 0
        return int(np.searchsorted(self.highest, first)), int(np.searchsorted(self.lowest, last))

    def strips_within(self, window: tuple[int, int], origin: int, num: int) -> Any:
        """Pixels of the window (slice), their weights, and the cells of a crop (slice) that they read."""
        for strip in self.strips[window[0] // _STRIP : -(-window[1] // _STRIP)]:
            start, stop = max(strip.first, window[0]), min(strip.first + len(strip.weights), window[1])
            low = max(strip.cell, origin)
            high = max(min(strip.cell + strip.weights.shape[1], origin + num), low)
            weights = strip.weights[start - strip.first : stop - strip.first, low - strip.cell : high - strip.cell]
            yield slice(start - window[0], stop - window[0]), weights, slice(low - origin, high - origin)

    def pixels(self, cells: Floats) -> Floats:
        """Places in the image of places in the map (0 is the first cell's outer edge); inside the image."""
        result: Floats = np.clip(cells * self.scale, 0, len(self.lowest))
        return result


def _bilinear(places: Floats, num: int) -> tuple[Ints, Floats]:
    """Places (...) -> the two neighbors that each reads (..., 2), and their shares; the border repeats forever."""
    places = np.clip(places, 0, max(num - 1, 0))
    low = np.floor(places).astype(np.int64)
    share = places - low
    return np.stack([low, np.minimum(low + 1, num - 1)], -1), np.stack([1 - share, share], -1)


def _cubic(places: Floats, num: int) -> tuple[Ints, Floats]:
    """Places (P,) -> the four neighbors that each reads (P, 4), and their shares (Keys 1981, with a = -0.75 as torch
    has it); the border repeats forever."""
    low = np.floor(places).astype(np.int64)
    t, a = places - low, -0.75
    near = [((a + 2) * s - (a + 3)) * s * s + 1 for s in (t, 1 - t)]
    far = [((a * s - 5 * a) * s + 8 * a) * s - 4 * a for s in (t + 1, 2 - t)]
    index = np.clip(low[:, None] + np.arange(-1, 3), 0, num - 1)
    return index, np.stack([far[0], near[0], near[1], far[1]], 1)


def _strip(first: int, index: Ints, share: Floats) -> _Strip:
    low = int(index.min())
    weights = np.zeros((len(index), int(index.max()) + 1 - low), np.float32)
    for tap in range(index.shape[1]):
        weights[np.arange(len(index)), index[:, tap] - low] += share[:, tap].astype(np.float32)
    return _Strip(first, low, weights)


def _span(seen: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """(N, cells) bool -> first and last + 1 of the True ones, a margin wider: (N,) each, 0 and 0 where none is."""
    num = seen.shape[1]
    some = seen.any(1)
    first = seen.int().argmax(1) - margin
    last = num - seen.flip(1).int().argmax(1) + margin
    return (first.clamp(min=0) * some).cpu(), (last.clamp(max=num) * some).cpu()


def _crossings(rows: NDArray[np.float32], threshold: float) -> tuple[float, float]:
    """Where the lines through each row's cell centers first and last cross the threshold, over all rows (L, cells).

    Returns:
        places, 0 being the first cell's outer edge; both 0 where nothing reaches the threshold.
    """
    high = rows >= threshold
    some = high.any(1)
    if not some.any():
        return 0.0, 0.0
    rows, high = rows[some], high[some]
    edges = []
    for values, reached in ((rows, high), (rows[:, ::-1], high[:, ::-1])):
        cell = reached.argmax(1)
        each = np.arange(len(values))
        value, before = values[each, cell], values[each, cell - 1]
        rise = np.where(cell > 0, value - before, 1)  # the first cell has none before it: the object starts at its edge
        edges.append(float(np.where(cell > 0, cell + 0.5 - (value - threshold) / rise, 0).min()))
    return edges[0], rows.shape[1] - edges[1]
