"""Maps of overlapping tiles joined into one: which tile speaks for a pixel, or how much each of them does.

A network knows least of what lies at the end of its tile. Labels are therefore taken from the tile in which a pixel
lies deeper, and values such as opacities are averaged with the depths as weights, so that no seam shows. Memory is that
of the whole map and of one tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


def join_labels(parts: Sequence[Tensor], tiles: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Label maps of all tiles -> that of the image.

    Args:
        parts: (h, w) integers of each tile.
        tiles: their windows x1, y1, x2, y2, px of the image, from :func:`eachmask.ops.tiles.tile_boxes`.
        size: (height, width) of the image.
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
    """Maps of floats (..., h, w) of all tiles -> that of the image (..., H, W), blended where tiles overlap."""
    total = parts[0].new_zeros((*parts[0].shape[:-2], *size))
    weight = torch.zeros(size)
    for part, tile in zip(parts, tiles, strict=True):
        x1, y1, x2, y2 = tile
        depth = depths(tile, size)
        total[..., y1:y2, x1:x2] += part * depth
        weight[y1:y2, x1:x2] += depth
    return total / weight


def depths(tile: Box, size: tuple[int, int]) -> Tensor:
    """(h, w) float in 0..1: how far each pixel of a tile is from its ends, the ends of the image aside."""
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
