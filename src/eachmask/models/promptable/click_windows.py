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

from eachmask.models.promptable.click_decoder import Known, of_length_one
from eachmask.models.promptable.click_questions import resampled

NOWHERE = -20.0
"""Logit of what lies beyond a window."""
LINE_CHANNELS = 16
"""From so many on it is faster to read whole places of a channels-last map, first rows and then columns."""


class View(NamedTuple):
    """What windows show of an image, stretched to grids."""

    fine: Tensor  # (Q, 16, 2 S, 2 S)
    maps: tuple[Tensor, ...]  # (Q, 32, S, S), (Q, 64, S / 2, S / 2), (Q, 96, S / 4, S / 4)
    keys: Tensor  # (Q, 64, S / 2, S / 2): vectors of each head, of length 1
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
    lines = [places(windows, extent, (2 * side) >> level) for level in range(4)]
    maps = tuple(stretched(x, image, *line) for x, line in zip(known.maps, lines[1:], strict=True))
    return View(
        stretched(known.fine, image, *lines[0]),
        maps,
        of_length_one(stretched(known.keys, image, *lines[2])).flatten(1, 2),
        stretched(known.colors, image, *lines[0]),
    )


def extent_of(known: Known) -> Tensor:
    """(2,) width and height that a whole map spans, px."""
    return known.fine.new_tensor([known.fine.shape[3] * 2, known.fine.shape[2] * 2])


def places(windows: Tensor, extent: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where the cells of grids of windows (R, 4) lie: x of their columns and y of their rows, (R, side) each, -1..1
    being the whole map."""
    steps = (torch.arange(side, device=windows.device, dtype=windows.dtype) + 0.5) / side
    low, size = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    x, y = (2 * (low + steps[None, :, None] * size) / extent - 1).unbind(2)
    return x, y


def stretched(maps: Tensor, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Maps (B, C, h, w) at columns x and rows y of their own for each row, (R, s) each: (R, C, s, s); see
    :func:`view`."""
    side = x.shape[1]
    in_lines = maps.shape[1] >= LINE_CHANNELS and not torch.is_grad_enabled()
    if in_lines and maps.device.type == "cpu" and maps.dtype in (torch.float32, torch.bfloat16):
        found = maps.new_empty(len(x), side, side, maps.shape[1])
        columns, rows = _neighbors(x, maps.shape[3], maps.dtype), _neighbors(y, maps.shape[2], maps.dtype)
        # A share for each channel too: torch's lerp is six times as fast as with one for all of a few channels.
        columns = columns._replace(share=columns.share[..., None].expand(-1, -1, maps.shape[1]).contiguous())
        for row, i in enumerate(image.tolist()):
            _by_lines(maps[i].permute(1, 2, 0), columns.of(row), rows.of(row), found[row])
        return found.permute(0, 3, 1, 2)
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], 3)
    values: Tensor = sampled(maps, image, grid.flatten(1, 2)).unflatten(2, (side, side))
    return values.contiguous(memory_format=torch.channels_last)


def sampled(maps: Tensor, image: Tensor, points: Tensor) -> Tensor:
    """Values of maps (B, C, h, w) at points (R, P, 2) in -1..1, bilinearly: (R, C, P); see :func:`view`."""
    result = []
    for i, one in enumerate(maps.split(1)):
        own = points[image == i].to(maps) if len(maps) > 1 else points.to(maps)
        values = F.grid_sample(one, own[None], padding_mode="border", align_corners=False)
        result.append(values[0].transpose(0, 1))
    return result[0] if len(result) == 1 else torch.cat(result)  # nothing is copied for one image


class _Neighbors(NamedTuple):
    """Of places along lines, (R, s), or (s,) of one."""

    before: Tensor  # cell
    after: Tensor  # cell
    share: Tensor  # of the one after

    def of(self, row: int) -> _Neighbors:
        return _Neighbors(self.before[row], self.after[row], self.share[row])


def _neighbors(lines: Tensor, cells: int, dtype: torch.dtype) -> _Neighbors:
    """Of places (R, s) in -1..1; the border repeats."""
    place = ((lines + 1) * (cells / 2) - 0.5).clamp(0, cells - 1)
    before = place.long()
    return _Neighbors(before, (before + 1).clamp(max=cells - 1), (place - before).to(dtype))


def _by_lines(places: Tensor, x: _Neighbors, y: _Neighbors, found: Tensor) -> None:
    """A map (h, w, C) at s columns, whose shares are (s, C), and s rows, ascending: ``found`` (s, s, C)."""
    first, last = int(x.before[0]), int(x.after[-1])
    seen = places[:, first : last + 1]
    rows = torch.lerp(seen.index_select(0, y.before), seen.index_select(0, y.after), y.share[:, None, None])
    before, after = rows.index_select(1, x.before - first), rows.index_select(1, x.after - first)
    torch.lerp(before, after, x.share, out=found)


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
