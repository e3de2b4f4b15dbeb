"""Windows of :mod:`eachmask.models.promptable.clicks`: where to look, and what an image's maps show there.

Shapes: B images of H x W px, R questions (an object of an image each), S the side of a window's grid, Q rows: R, or 1
where all questions look through one window at one image, which is then looked through once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from eachmask.models.promptable.click_decoder import Known
from eachmask.models.promptable.click_questions import resampled

NOWHERE = -20.0
"""Logit of what lies beyond a window."""
BAG_CHANNELS = 16
"""From so many on a place's channels are summed as a row: twice as fast as map by map where windows are many."""


class View(NamedTuple):
    """What windows show of an image, stretched to grids."""

    fine: Tensor  # (Q, 16, 2 S, 2 S)
    maps: tuple[Tensor, ...]  # (Q, 32, S, S), (Q, 64, S / 2, S / 2), (Q, 96, S / 4, S / 4)
    keys: Tensor  # (Q, 64, S / 2, S / 2)
    colors: Tensor  # (Q, 3, 2 S, 2 S)


_whole: Any = WeakIdKeyDictionary()
"""What was last seen of images through a window around all of them, by their finest map: each first click asks so."""


def view(known: Known, image: Tensor, windows: Tensor, side: int) -> View:
    """What windows (R, 4) show.

    Args:
        image: (R,) which image each window is of; in ascending order.
        side: S.
    """
    if not len(windows) or not bool((windows == windows[:1]).all() & (image == image[0]).all()):
        return _view(known, image, windows, side)
    key = [side, int(image[0]), *windows[0].tolist()]
    if torch.is_grad_enabled() or key[2:4] != [0, 0]:
        return _view(known, image[:1], windows[:1], side)
    seen, shown = _whole.get(known.fine, (None, None))
    if seen != key:
        shown = _view(known, image[:1], windows[:1], side)
        _whole[known.fine] = key, shown
    return shown  # type: ignore[no-any-return]


def _view(known: Known, image: Tensor, windows: Tensor, side: int) -> View:
    extent = extent_of(known)
    grids = [places(windows, extent, (2 * side) >> level) for level in range(4)]
    maps = tuple(stretched(x, image, grid) for x, grid in zip(known.maps, grids[1:], strict=True))
    return View(
        stretched(known.fine, image, grids[0]),
        maps,
        stretched(known.keys, image, grids[2]),
        stretched(known.colors, image, grids[0]),
    )


def extent_of(known: Known) -> Tensor:
    """(2,) width and height that a whole map spans, px."""
    return known.fine.new_tensor([known.fine.shape[3] * 2, known.fine.shape[2] * 2])


def places(windows: Tensor, extent: Tensor, side: int) -> Tensor:
    """Where the cells of grids of windows (R, 4) lie: (R, side, side, 2) xy, -1..1 being the whole map."""
    steps = (torch.arange(side, device=windows.device, dtype=windows.dtype) + 0.5) / side
    low, size = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    x, y = (2 * (low + steps[None, :, None] * size) / extent - 1).unbind(2)
    return torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], 3)


def stretched(maps: Tensor, image: Tensor, grid: Tensor) -> Tensor:
    """Maps (B, C, h, w) at places of their own for each row, (R, s, s, 2): (R, C, s, s); see :func:`view`."""
    rows, side = len(grid), grid.shape[1]
    by_rows = rows > 1 and maps.shape[1] >= BAG_CHANNELS and not torch.is_grad_enabled()
    if by_rows and maps.device.type == "cpu" and maps.dtype == torch.float32:
        return _summed(maps, image, grid)
    found: Tensor = sampled(maps, image, grid.flatten(1, 2)).unflatten(2, (side, side))
    return found.contiguous(memory_format=torch.channels_last)


def sampled(maps: Tensor, image: Tensor, points: Tensor) -> Tensor:
    """Values of maps (B, C, h, w) at points (R, P, 2) in -1..1, bilinearly: (R, C, P); see :func:`view`."""
    result = []
    for i, one in enumerate(maps.split(1)):
        own = points[image == i].to(maps) if len(maps) > 1 else points.to(maps)
        values = F.grid_sample(one, own[None], padding_mode="border", align_corners=False)
        result.append(values[0].transpose(0, 1))
    return result[0] if len(result) == 1 else torch.cat(result)  # nothing is copied for one image


def _summed(maps: Tensor, image: Tensor, grid: Tensor) -> Tensor:
    """:func:`stretched` as sums of four rows each: every place of channels-last maps is a row."""
    _, channels, height, width = maps.shape
    (left, right, across), (top, bottom, along) = (
        _neighbors(line, cells) for line, cells in ((grid[:, 0, :, 0], width), (grid[:, :, 0, 1], height))
    )
    first = (image * height)[:, None]
    rows = torch.stack([first + top, first + bottom], 2) * width
    columns = torch.stack([left, right], 2)
    by_row, by_column = torch.stack([1 - along, along], 2), torch.stack([1 - across, across], 2)
    shares = by_row[:, :, None, :, None] * by_column[:, None, :, None]
    index = rows[:, :, None, :, None] + columns[:, None, :, None]  # (R, s, s, 2, 2)
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    found = F.embedding_bag(index.view(-1, 4), table, mode="sum", per_sample_weights=shares.view(-1, 4))
    return found.view(*grid.shape[:3], channels).permute(0, 3, 1, 2)


def _neighbors(line: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of places (R, s) in -1..1: the cells before and after, and the share of the one after; the border repeats."""
    place = ((line + 1) * (cells / 2) - 0.5).clamp(0, cells - 1)
    before = place.long()
    return before, (before + 1).clamp(max=cells - 1), place - before


def widened(boxes: Tensor, margin: Tensor | float, least: float, most_aspect: float) -> Tensor:
    """Boxes (R, 4) with a margin on each side, given as a share of their sides, neither tiny nor narrow."""
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    size = size * (1 + 2 * margin)
    size = torch.maximum(size, size.flip(1) / most_aspect).clamp(min=least)
    return torch.cat([center - size / 2, center + size / 2], 1)


def inside(windows: Tensor, whole: Tensor) -> Tensor:
    """Windows cut at the image's border; what leaves the image altogether becomes all of it."""
    low, high = whole[:, :2], whole[:, 2:]
    cut = torch.cat([windows[:, :2].clamp(low, high), windows[:, 2:].clamp(low, high)], 1)
    empty = ((cut[:, 2:] - cut[:, :2]) < 1).any(1, keepdim=True)
    return torch.where(empty, whole, cut)


def spread(logits: Tensor, windows: Tensor, like: Tensor) -> Tensor:
    """Logits (K, m, m) of windows (K, 4) as maps (K, h, w) over all of an image, :data:`NOWHERE` beyond the windows.

    Args:
        like: (B, C, h, w) at stride 2.
    """
    height, width = like.shape[2:]
    x, y = ((torch.arange(side, device=windows.device, dtype=windows.dtype) + 0.5) * 2 for side in (width, height))
    rows = x.expand(len(logits), -1), y.expand(len(logits), -1)
    return resampled(logits.float() - NOWHERE, windows, *rows) + NOWHERE
