"""Clicks as maps that a network sees beside the image, and the window that it looks at them through.

The protocol of f-BRS and RITM (Sofiiuk et al., arXiv 2001.10331 and 2102.06583), which SimpleClick shares. A click is
(row, column) here, the center of the first pixel being (0, 0), as the published weights have learnt it.

Shapes: B images, P clicks of each (some of which may be missing), H x W px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eachmask.structures import Prompts

SCRIBBLE_STEP = 10.0
"""A scribble is as many clicks as there are such steps in it, px."""


class Clicks(NamedTuple):
    """Where users clicked, and whether on the object.

    >>> Clicks(torch.tensor([[[2.0, 5.0]]]), torch.tensor([[1]])).flip(width=8).places.tolist()
    [[[2.0, 2.0]]]
    """

    places: Tensor  # (B, P, 2) float (row, column)
    signs: Tensor  # (B, P) int: 1 on the object, -1 beside it, 0 where there is no click

    def first(self, num: int) -> Clicks:
        """The first ``num`` clicks of each image."""
        return Clicks(self.places[:, :num], self.signs[:, :num])

    def flip(self, width: int) -> Clicks:
        """Mirrored left to right in an image of that width."""
        row, column = self.places.unbind(-1)
        return Clicks(torch.stack([row, width - 1 - column], -1), self.signs)

    def seen_through(self, window: Window, size: tuple[int, int]) -> Clicks:
        """As they lie in the window once that is stretched to (height, width)."""
        corner = self.places.new_tensor([window.top, window.left])
        scale = self.places.new_tensor([size[0] / window.height, size[1] / window.width])
        return Clicks((self.places - corner) * scale, self.signs)


def clicks_of(prompts: Prompts) -> Clicks:
    """The points and scribbles of one object's prompts as B = 1 clicks, in the order of the points.

    >>> points, signs = torch.tensor([[5.5, 2.5], [0.5, 0.5]]), torch.tensor([True, False])
    >>> clicks = clicks_of(Prompts((8, 8), points=points, signs=signs))
    >>> clicks.places.tolist(), clicks.signs.tolist()
    ([[[2.0, 5.0], [0.0, 0.0]]], [[1, -1]])
    """
    height, width = prompts.image_size
    places = [prompts.points]
    signs = [prompts.signs]
    for line, sign in zip(prompts.scribbles, prompts.scribble_signs, strict=True):
        places.append(_along(line))
        signs.append(sign.expand(len(places[-1])))
    xy = torch.cat(places).float()
    limits = xy.new_tensor([width - 1, height - 1])
    pixels = torch.minimum(xy.floor(), limits).clamp(min=0)  # the far border belongs to the last pixel
    return Clicks(pixels.flip(-1)[None], torch.where(torch.cat(signs), 1, -1)[None])


def _along(line: Tensor) -> Tensor:
    """Places on a line (K, 2), about a step apart; both ends are among them."""
    if len(line) < 2:
        return line
    lengths = (line[1:] - line[:-1]).norm(dim=1).cumsum(0)
    lengths = torch.cat([lengths.new_zeros(1), lengths])
    num = max(2, int(lengths[-1] / SCRIBBLE_STEP) + 1)
    at = torch.linspace(0, float(lengths[-1]), num, device=line.device)
    after = torch.searchsorted(lengths, at).clamp(1, len(line) - 1)
    span = (lengths[after] - lengths[after - 1]).clamp(min=1e-6)
    share = ((at - lengths[after - 1]) / span)[:, None]
    return line[after - 1] * (1 - share) + line[after] * share


# Maps -----------------------------------------------------------------------------------------------------------------


def disks(clicks: Clicks, size: tuple[int, int], radius: float = 5.0) -> Tensor:
    """(B, 2, H, W) of 0 and 1: disks around the clicks on the object, and around those beside it.

    Args:
        size: (H, W); radius: px, to which the disk's border belongs.

    >>> disks(Clicks(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1]])), (1, 4), radius=1)[0].tolist()
    [[[1.0, 1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]]
    """
    return torch.stack([_squared_distance(clicks, sign, size) <= radius**2 for sign in (1, -1)], 1).float()


def distances(clicks: Clicks, size: tuple[int, int], radius: float = 260.0) -> Tensor:
    """(B, 2, H, W) in 0..1: tanh(2 d / radius) of the distance d to the nearest click of each sign; 1 without any.

    >>> clicks = Clicks(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1]]))
    >>> [round(value, 2) for value in distances(clicks, (1, 4), radius=4)[0, 0, 0].tolist()]
    [0.46, 0.0, 0.46, 0.76]
    """
    maps = [_squared_distance(clicks, sign, size, radius) for sign in (1, -1)]
    return (2 * torch.stack(maps, 1).sqrt()).tanh()


def _squared_distance(clicks: Clicks, sign: int, size: tuple[int, int], unit: float = 1.0) -> Tensor:
    """(B, H, W): to the nearest click of that sign, in squared units; large where there is none."""
    row, column = clicks.places.unbind(-1)
    ys, xs = (torch.arange(side, device=row.device, dtype=row.dtype) for side in size)
    nearest = row.new_full((len(row), *size), 1e6)
    for i in range(row.shape[1]):  # one after another: P maps at once would take P times the memory
        dy = ((ys - row[:, i, None]) / unit) ** 2
        dx = ((xs - column[:, i, None]) / unit) ** 2
        apart = dy[:, :, None] + dx[:, None, :]
        counts = (clicks.signs[:, i] == sign)[:, None, None]
        nearest = torch.where(counts, torch.minimum(nearest, apart), nearest)
    return nearest


# Windows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Rows and columns from first to last, both inclusive.

    >>> Window(2, 5, 0, 3).expanded(2.0, 1, (10, 10))
    Window(top=0, bottom=8, left=0, right=6)
    >>> Window(0, 3, 0, 3).iou(Window(0, 3, 2, 5))
    0.3333333333333333
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left + 1

    @staticmethod
    def whole(size: tuple[int, int]) -> Window:
        """All of an image of (height, width)."""
        return Window(0, size[0] - 1, 0, size[1] - 1)

    @staticmethod
    def around(inside: Tensor, clicks: Clicks) -> Window | None:
        """The tightest one around the True pixels (H, W) and the clicks on the object; None where no pixel is True."""
        if not inside.any():
            return None
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        places = clicks.places[0][clicks.signs[0] > 0].long()
        rows, columns = torch.cat([rows, places[:, 0]]), torch.cat([columns, places[:, 1]])
        return Window(int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()))

    def expanded(self, ratio: float, least: int, size: tuple[int, int]) -> Window:
        """Stretched about its center by ``ratio``, to at least ``least`` px a side, and cut at the image's border."""
        top, bottom = _stretched(self.top, self.bottom, ratio, least, size[0])
        left, right = _stretched(self.left, self.right, ratio, least, size[1])
        return Window(top, bottom, left, right)

    def holds(self, clicks: Clicks) -> bool:
        """Whether all clicks on the object lie in it; its last row and column count as outside, as in RITM."""
        row, column = clicks.places[0][clicks.signs[0] > 0].unbind(-1)
        inside = (row >= self.top) & (row < self.bottom) & (column >= self.left) & (column < self.right)
        return bool(inside.all())

    def iou(self, other: Window) -> float:
        """Product of the overlaps of the rows and of the columns."""
        rows = _overlap(self.top, self.bottom, other.top, other.bottom)
        return rows * _overlap(self.left, self.right, other.left, other.right)


def _stretched(first: int, last: int, ratio: float, least: int, side: int) -> tuple[int, int]:
    center, length = 0.5 * (first + last), max(ratio * (last - first + 1), least)
    return max(round(center - 0.5 * length), 0), min(round(center + 0.5 * length), side - 1)


def _overlap(a1: int, a2: int, b1: int, b2: int) -> float:
    """Of two spans of whole pixels, 0..1."""
    return max(0, min(a2, b2) - max(a1, b1) + 1) / max(1, max(a2, b2) - min(a1, b1) + 1)
