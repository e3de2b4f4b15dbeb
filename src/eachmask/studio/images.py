"""Images as the page sees them: thumbnails and tiles, read by the package's reader and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.read import num_pages, read_image
from eachmask.files.jpeg import jpeg, reduced
from eachmask.structures import UserError

TILE, THUMBNAIL = 512, 160
MAX_KEPT = 1_500_000_000
"""Bytes of decoded images."""
MAX_THUMBNAILS = 10_000
_SAMPLES = 1_000_000


class Pyramid:
    """One page of an image at full size and halved again and again, down to one tile."""

    def __init__(self, image: NDArray[Any]) -> None:
        self.levels = [image]
        while max(self.levels[-1].shape[:2]) > TILE:
            height, width = self.levels[-1].shape[:2]
            size = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
            self.levels.append(np.asarray(cv2.resize(self.levels[-1], size, interpolation=cv2.INTER_AREA)))
        flat = self.levels[-1].reshape(-1)[:: max(1, self.levels[-1].size // _SAMPLES)]
        finite = flat[np.isfinite(flat)]
        self.span = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        self.limits = (0.0, 255.0) if image.dtype == np.uint8 else self.span
        if image.dtype != np.uint8 and len(finite):
            low, high = np.percentile(finite, [0.1, 99.9])
            self.limits = (float(low), float(high)) if low < high else self.limits

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return sum(level.nbytes for level in self.levels)

    @property
    def bits(self) -> int:
        """Of one value."""
        return int(self.levels[0].dtype.itemsize) * 8

    def tile(self, level: int, x: int, y: int, low: float | None, high: float | None, channel: int | None) -> bytes:
        """A JPEG of at most 512 px a side.

        Args:
            low, high: the values that are black and white; by default nearly all of them are seen.
            channel: 0, 1 or 2 alone, as gray; None: colors.

        Raises:
            UserError: there is no such tile or channel.
        """
        if not 0 <= level < len(self.levels):
            raise UserError(f"there is no level {level}: levels are 0 to {len(self.levels) - 1}")
        part = self.levels[level][y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] if min(x, y) >= 0 else None
        if part is None or not part.size:
            raise UserError(f"there is no tile {x}, {y} on level {level}")
        if channel is not None:
            if not 0 <= channel < 3:
                raise UserError("channels are 0, 1 and 2")
            part = np.repeat(part[..., channel : channel + 1], 3, 2)
        return jpeg(self.windowed(part, low, high))

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
        self._thumbnails: OrderedDict[tuple[Path, int], bytes] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def pyramid(self, path: Path, page: int = 0) -> Pyramid:
        """A page (from 0) of an image.

        Raises:
            UserError: it cannot be read.
        """
        key = (path, page, _modified(path))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._reading:  # one at a time: large images are large in memory
            with self._lock:
                known = self._kept.get(key)
            made = known or Pyramid(read_image(path, page=page + 1))
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    def pages(self, path: Path) -> int:
        """How many there are."""
        return num_pages(path)

    def thumbnail(self, path: Path) -> bytes:
        """A JPEG whose longer side is 160 px.

        Raises:
            UserError: the image cannot be read.
        """
        key = (path, _modified(path))
        with self._lock:
            if key in self._thumbnails:
                return self._thumbnails[key]
        made = Pyramid(read_image(path))
        small = jpeg(reduced(made.windowed(made.levels[-1], None, None), THUMBNAIL))
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
