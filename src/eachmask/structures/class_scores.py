"""ClassScores: scores of every class on a coarse grid, of which a label map of any size can be made.

Networks answer at an eighth of the image's side or so. Scores of all K classes at its full size would be K floats for
each pixel, most of them for nothing: between four cells whose best class is the same every pixel has that class, for it
is best at all four ends. Only what lies between cells that disagree is interpolated, some of them at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_SIZE = 1 << 19
"""Scores interpolated at a time."""


class Axis(NamedTuple):
    """Where N pixels of one side lie between the cells of a grid.

    >>> axis(2, 2.0, 4).share.tolist()
    [0.0, 0.25, 0.75, 0.0]
    """

    first: Tensor  # (N,) int64, the cell before
    second: Tensor  # (N,) int64, the cell behind
    share: Tensor  # (N,) float32, how much of the one behind

    def part(self, begin: int, end: int) -> Axis:
        """Some of the pixels."""
        return Axis(self.first[begin:end], self.second[begin:end], self.share[begin:end])

    def by_cell(self, cells: int) -> tuple[Tensor, Tensor]:
        """(cells, n) int64 numbers of the pixels between each cell and the next, and (cells,) how many those are.

        Where there are fewer than n the last one is repeated.
        """
        counts = torch.bincount(self.first, minlength=cells)
        ends = counts.cumsum(0)
        places = (ends - counts)[:, None] + torch.arange(int(counts.max()), device=counts.device)
        return torch.minimum(places, ends[:, None] - 1).clamp(min=0), counts


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores (K, h, w) float on a grid over an image, whose top left corner is the grid's."""

    grid: Tensor
    """(K, h, w), of any float type; best class highest."""
    extent: tuple[float, float]
    """Rows and columns of the grid that the image takes up, in cells: h and w, less what is padding; where cells are
    aligned with corners, from the first one's center to the last one's."""
    aligned: bool = False
    """The outermost cells' centers lie on those of the outermost pixels (``align_corners=True``) instead of the cells'
    edges on theirs."""
    through: tuple[int, int] | None = None
    """(height, width), px, of the image that the network saw: scores for other sizes are interpolated twice, to this
    one and from there, as MMSegmentation and Detectron2 do. None: once, which is cheaper."""

    def to(self, device: torch.device | str) -> ClassScores:
        """On another device."""
        return replace(self, grid=self.grid.to(device))

    def labels(self, size: tuple[int, int]) -> Tensor:
        """(H, W) int64, the best class of each pixel of an image of this (height, width), bilinearly interpolated.

        Equal to ``interpolate(mode="bilinear", align_corners=aligned)`` and ``argmax``, but for ties; see ``through``.

        >>> scores = ClassScores(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), (1, 2))
        >>> scores.labels((1, 6))
        tensor([[0, 0, 0, 1, 1, 1]])
        """
        if self.through is not None and size != self.through:
            step = max(1, CHUNK_SIZE // (len(self.grid) * size[1]))
            strips = (self.rows(top, min(top + step, size[0]), size) for top in range(0, size[0], step))
            return torch.cat([best_class(strip) for strip in strips])
        rows, columns = self.axes(size)
        best = best_class(self.grid)
        right, below = best.roll(-1, 1), best.roll(-1, 0)
        right[:, -1], below[-1] = best[:, -1], best[-1]
        diagonal = right.roll(-1, 0)
        diagonal[-1] = right[-1]
        labels = best[rows.first][:, columns.first]
        mixed = (best != right) | (best != below) | (best != diagonal)
        self._interpolate_into(labels, mixed, rows, columns)
        return labels

    def rows(self, begin: int, end: int, size: tuple[int, int]) -> Tensor:
        """(K, end - begin, W) float32: the interpolated scores of some rows of an image of this size."""
        rows, columns = self.axes(size)
        rows = rows.part(begin, end)
        low, high = int(rows.first.min()), int(rows.second.max()) + 1
        if self.through is None or size == self.through:
            cells = self.grid[:, low:high].float()
        else:
            cells = self.rows(low, high, self.through)
        cells = torch.lerp(cells[:, :, columns.first], cells[:, :, columns.second], columns.share)
        return torch.lerp(cells[:, rows.first - low], cells[:, rows.second - low], rows.share[:, None])

    def axes(self, size: tuple[int, int]) -> tuple[Axis, Axis]:
        """Where the rows and the columns of an image of this size lie on the grid, or on the pixels of ``through``."""
        _, *counts = self.grid.shape
        extents = self.extent
        if self.through is not None and size != self.through:
            height, width = self.through
            counts, extents = [height, width], (height - int(self.aligned), width - int(self.aligned))
        cells = zip(counts, extents, size, strict=True)
        first, second = (axis(count, extent, pixels, self.grid.device, self.aligned) for count, extent, pixels in cells)
        return first, second

    def _interpolate_into(self, labels: Tensor, mixed: Tensor, rows: Axis, columns: Axis) -> None:
        """The labels of the pixels between the cells of a mask (h, w) and their neighbors."""
        _, height, width = self.grid.shape
        ys, num_rows = rows.by_cell(height)
        xs, num_columns = columns.by_cell(width)
        y, x = (mixed & (num_rows[:, None] > 0) & (num_columns > 0)).nonzero(as_tuple=True)
        step = max(1, CHUNK_SIZE // (len(self.grid) * ys.shape[1] * xs.shape[1]))
        for i, j in zip(y.split(step), x.split(step), strict=True):
            i2, j2 = (i + 1).clamp(max=height - 1), (j + 1).clamp(max=width - 1)
            row, column = ys[i], xs[j]  # (M, rows), (M, columns)
            across, down = columns.share[column][:, None], rows.share[row][..., None]
            top, bottom = (
                torch.lerp(
                    self.grid[:, k, j].float()[..., None, None], self.grid[:, k, j2].float()[..., None, None], across
                )
                for k in (i, i2)
            )  # (K, M, 1, columns)
            labels[row[..., None], column[:, None]] = best_class(torch.lerp(top, bottom, down))


def best_class(scores: Tensor) -> Tensor:
    """(K, ...) -> (...) int64: what ``argmax(0)`` gives, in one pass over memory instead of many jumps.

    >>> best_class(torch.tensor([[0.1, 0.9], [0.8, 0.2]])).tolist()
    [1, 0]
    """
    return scores.max(0).indices


def axis(cells: int, extent: float, pixels: int, device: torch.device | str = "cpu", aligned: bool = False) -> Axis:
    """Pixels that share ``extent`` of so many cells evenly; beyond the centers of the last cells nothing changes.

    >>> line = axis(2, 2.0, 4)
    >>> line.first.tolist(), line.second.tolist(), line.share.tolist()
    ([0, 0, 0, 1], [1, 1, 1, 1], [0.0, 0.25, 0.75, 0.0])
    """
    place = torch.arange(pixels, dtype=torch.float32, device=device)
    place = place * (extent / max(pixels - 1, 1)) if aligned else (place + 0.5) * (extent / max(pixels, 1)) - 0.5
    place = place.clamp(0, cells - 1)
    first = place.long()
    return Axis(first, (first + 1).clamp(max=cells - 1), place - first)
