"""Maps of overlapping tiles joined into one: which tile speaks for a pixel, or how much each of them does.

A network knows least of what lies at the end of its tile. Labels are therefore taken from the tile in which a pixel
lies deeper, and values such as opacities are averaged with the depths as weights, so that no seam shows. Memory is that
of the whole map and of one tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from eachmask.structures.class_scores import ClassScores, best_class

STRIP_HEIGHT = 32
"""Rows of the image that are worked out at a time, where there are scores for each class."""
Box = tuple[int, int, int, int]


def join_labels(parts: Sequence[Tensor], tiles: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Label maps of all tiles -> that of the image.

    Args:
        parts: (h, w) integers of each tile.
        tiles: their windows x1, y1, x2, y2, px of the image, from :func:`eachmask.ops.tiles.tile_boxes`.
        size: (height, width) of the image.

    >>> parts = [torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)]
    >>> join_labels(parts, [(0, 0, 4, 1), (2, 0, 6, 1)], (1, 6)).tolist()
    [[0, 0, 0, 1, 1, 1]]
    """
    whole = parts[0].new_zeros(size)
    deepest = torch.zeros(size, dtype=torch.float16)
    for part, tile in zip(parts, tiles, strict=True):
        x1, y1, x2, y2 = tile
        depth = depths(tile, size).half()
        best = deepest[y1:y2, x1:x2]
        deeper = depth > best
        whole[y1:y2, x1:x2][deeper] = part[deeper]
        best[deeper] = depth[deeper]
    return whole


def join_values(parts: Sequence[Tensor], tiles: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Maps of floats (..., h, w) of all tiles -> that of the image (..., H, W), blended where tiles overlap.

    >>> parts = [torch.zeros(1, 4), torch.ones(1, 4)]
    >>> join_values(parts, [(0, 0, 4, 1), (2, 0, 6, 1)], (1, 6)).tolist()
    [[0.0, 0.0, 0.25, 0.75, 1.0, 1.0]]
    """
    total = parts[0].new_zeros((*parts[0].shape[:-2], *size))
    weight = torch.zeros(size)
    for part, tile in zip(parts, tiles, strict=True):
        x1, y1, x2, y2 = tile
        depth = depths(tile, size)
        total[..., y1:y2, x1:x2] += part * depth
        weight[y1:y2, x1:x2] += depth
    return total / weight


def join_scores(
    parts: Sequence[ClassScores], tiles: Sequence[Box], size: tuple[int, int], *, even: bool = False
) -> Tensor:
    """Scores of all classes of all tiles -> the best class of each pixel of the image, (H, W) int64.

    Memory is that of the parts and of one strip of rows.

    Args:
        parts: of each tile, on a grid over it.
        tiles: see :func:`join_labels`.
        size: (height, width) of the image.
        even: see :func:`mean_scores`.

    >>> parts = [ClassScores(torch.tensor(grid), (1, 1)) for grid in ([[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]])]
    >>> join_scores(parts, [(0, 0, 4, 1), (2, 0, 6, 1)], (1, 6)).tolist()
    [[0, 0, 0, 1, 1, 1]]
    """
    return torch.cat([best_class(strip) for strip in mean_scores(parts, tiles, size, even=even)])


def mean_scores(
    parts: Sequence[ClassScores], tiles: Sequence[Box], size: tuple[int, int], *, even: bool
) -> Iterator[Tensor]:
    """(K, rows, W) scores of some rows at a time, from the top, averaged where tiles overlap.

    Args:
        even: all tiles that see a pixel count alike; else as deep as it lies in them, so that no seam shows.

    >>> parts = [ClassScores(torch.tensor([[[value]]]), (1, 1)) for value in (1.0, 4.0)]
    >>> (strip,) = mean_scores(parts, [(0, 0, 4, 1), (2, 0, 6, 1)], (1, 6), even=True)
    >>> strip.tolist()
    [[[1.0, 1.0, 2.5, 2.5, 4.0, 4.0]]]
    """
    for top in range(0, size[0], STRIP_HEIGHT):
        bottom = min(top + STRIP_HEIGHT, size[0])
        total = torch.zeros(parts[0].grid.shape[0], bottom - top, size[1])
        weight = torch.zeros(bottom - top, size[1])
        for part, tile in zip(parts, tiles, strict=True):
            x1, y1, x2, y2 = tile
            first, last = max(top, y1), min(bottom, y2)
            if first < last:
                scores = part.rows(first - y1, last - y1, (y2 - y1, x2 - x1))
                own = torch.ones(last - first, x2 - x1) if even else depths(tile, size)[first - y1 : last - y1]
                total[:, first - top : last - top, x1:x2] += scores * own
                weight[first - top : last - top, x1:x2] += own
        yield total / weight


def depths(tile: Box, size: tuple[int, int]) -> Tensor:
    """(h, w) float in 0..1: how far each pixel of a tile is from its ends, the ends of the image aside.

    >>> depths((2, 0, 6, 1), (1, 6)).tolist()
    [[0.125, 0.375, 0.625, 0.875]]
    """
    x1, y1, x2, y2 = tile
    rows = _depths(y2 - y1, y1 > 0, y2 < size[0])
    columns = _depths(x2 - x1, x1 > 0, x2 < size[1])
    return torch.minimum(rows[:, None], columns[None])


def _depths(length: int, first_is_cut: bool, last_is_cut: bool) -> Tensor:
    place = torch.arange(length) + 0.5
    depth = torch.full((length,), float(length))
    if first_is_cut:
        depth = torch.minimum(depth, place)
    if last_is_cut:
        depth = torch.minimum(depth, length - place)
    return depth / length
