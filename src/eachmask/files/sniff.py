"""A glimpse of a file, enough to tell its format, whatever its size."""

from __future__ import annotations

from pathlib import Path

WINDOW = 1 << 18
"""Bytes that are read at the beginning, in the middle and at the end."""


def glimpse(path: Path, window: int = WINDOW) -> bytes:
    """The beginning, the middle and the end of a file, the whole of a small one; of UTF-16 the letters. Nothing of a
    file that cannot be read."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            if size <= 3 * window:
                return handle.read().replace(b"\0", b"")
            parts = []
            for place in (0, (size - window) // 2, size - window):
                handle.seek(place)
                parts.append(handle.read(window))
            return b"\n".join(parts).replace(b"\0", b"")
    except OSError:
        return b""
