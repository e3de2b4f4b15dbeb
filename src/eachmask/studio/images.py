"""Images as the page sees them: thumbnails and tiles, read by the package's reader and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.files.jpeg import jpeg, reduced
from eachmask.structures import UserError
from eachmask.studio.items import COLORS, Item, Shade, halved, mixed, window_of

TILE, THUMBNAIL = 512, 160
MAX_KEPT = 1_500_000_000
"""Bytes of decoded images."""
MAX_THUMBNAILS = 10_000


class Pyramid:
    """One image at full size and halved again and again, down to one tile.

    Args:
        image: (H, W, 3), or (H, W, channels) where there are some to choose from.
    """

    def __init__(self, image: NDArray[Any], channels: int = 0) -> None:
        self.levels = [image]
        while max(self.levels[-1].shape[:2]) > TILE:
            self.levels.append(halved(self.levels[-1]))
        small = self.levels[-1]
        self.span = window_of(small, 0)
        self.limits = (0.0, 255.0) if image.dtype == np.uint8 else window_of(small)
        self.windows = [window_of(small[..., k]) for k in range(channels)]
        """Of each channel that can be chosen: the values that are black and full."""
        self.spans = [window_of(small[..., k], 0) for k in range(channels)]

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return sum(level.nbytes for level in self.levels)

    @property
    def bits(self) -> int:
        """Of one value."""
        return int(self.levels[0].dtype.itemsize) * 8

    def tile(
        self, level: int, x: int, y: int, low: float | None = None, high: float | None = None,
        channel: int | None = None, shades: list[Shade] | None = None,
    ) -> bytes:  # fmt: skip
        """A JPEG of at most 512 px a side.

        Args:
            low, high: the values that are black and white; by default nearly all of them are seen.
            channel: 0, 1 or 2 alone, as gray; None: colors.
            shades: of an image with channels to choose from; by default all.

        Raises:
            UserError: there is no such tile or channel.
        """
        if not 0 <= level < len(self.levels):
            raise UserError(f"there is no level {level}: levels are 0 to {len(self.levels) - 1}")
        part = self.levels[level][y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] if min(x, y) >= 0 else None
        if part is None or not part.size:
            raise UserError(f"there is no tile {x}, {y} on level {level}")
        if self.windows:
            return jpeg(self.shaded(part, shades))
        if channel is not None:
            if not 0 <= channel < 3:
                raise UserError("channels are 0, 1 and 2")
            part = np.repeat(part[..., channel : channel + 1], 3, 2)
        return jpeg(self.windowed(part, low, high))

    def shaded(self, part: NDArray[Any], shades: list[Shade] | None = None) -> NDArray[np.uint8]:
        """Channels in their colors.

        Raises:
            UserError: there is no such channel.
        """
        number = len(self.windows)
        chosen = [Shade(k, COLORS[k % len(COLORS)]) for k in range(number)] if shades is None else shades
        if any(shade.channel >= number for shade in chosen):
            raise UserError(f"channels are 0 to {number - 1}")
        return mixed(part, chosen, self.windows)

    def windowed(self, part: NDArray[Any], low: float | None, high: float | None) -> NDArray[np.uint8]:
        """8 bits between two values."""
        if part.dtype == np.uint8 and low is None and high is None:
            return np.ascontiguousarray(part)
        least, most = self.limits[0] if low is None else low, self.limits[1] if high is None else high
        scaled = (np.nan_to_num(part.astype(np.float32)) - least) * (255 / ((most - least) or 1))
        return np.asarray(np.clip(scaled, 0, 255), np.uint8)


class Images:
    """Decoded images and thumbnails, the last used ones kept in memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int, int], Pyramid] = OrderedDict()
        self._thumbnails: OrderedDict[tuple[Path, int, int], bytes] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def pyramid(self, item: Item) -> Pyramid:
        """Of an image.

        Raises:
            UserError: it cannot be read.
        """
        key = (item.path, item.place, _modified(item.path))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._reading:  # one at a time: large images are large in memory
            with self._lock:
                known = self._kept.get(key)
            made = known or Pyramid(item.read(), item.channels)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    def thumbnail(self, item: Item) -> bytes:
        """A JPEG whose longer side is 160 px.

        Raises:
            UserError: the image cannot be read.
        """
        key = (item.path, item.place, _modified(item.path))
        with self._lock:
            if key in self._thumbnails:
                return self._thumbnails[key]
        made = Pyramid(item.read(), item.channels)
        last = made.levels[-1]
        small = jpeg(reduced(made.shaded(last) if item.channels else made.windowed(last, None, None), THUMBNAIL))
        with self._lock:
            self._thumbnails[key] = small
            if len(self._thumbnails) > MAX_THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return small


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
