"""PNG files that end before their last row, which decoders fill with black without a word."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from eachmask.structures import UserError

_CHUNK = 1 << 20
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of Adam7's passes (PNG specification, 8.2)."""


def check_rows(path: Path, image: Image.Image) -> None:
    """Compare what is there with what the header says; only where the last two rows are black, or it is interlaced.

    Raises:
        UserError: rows of the decoded image are missing.
    """
    width, height = image.size
    if image.info.get("interlace") or not np.asarray(image.crop((0, max(0, height - 2), width, height))).any():
        with open(path, "rb") as file:
            header = file.read(33)
            needed = _num_bytes(*struct.unpack(">IIBBBBB", header[16:29]))
            there = sum(_inflated(file))
        if there < needed:
            raise UserError(
                f"{path} is cut off: only {there / needed:.0%} of its rows are there, copy or export it again"
            )


def _num_bytes(width: int, height: int, bits: int, color: int, *more: int) -> int:
    """What the rows take before they are compressed, each with its filter's byte."""
    passes = [(width, height)]
    if more[-1]:  # interlaced
        passes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES]
    per_pixel = bits * _CHANNELS.get(color, 1)
    return sum(h * (1 + -(-w * per_pixel // 8)) for w, h in passes if w > 0 and h > 0)


def _inflated(file: BinaryIO) -> Iterator[int]:
    """Bytes that come out of the chunks of pixels, piece by piece."""
    stream = zlib.decompressobj()
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            file.seek(length + 4, 1)
            continue
        data = file.read(length)
        while data and not stream.eof:
            yield len(stream.decompress(data, _CHUNK))
            data = stream.unconsumed_tail
        file.seek(4, 1)
