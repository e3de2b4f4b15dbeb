"""What the C library does with memory that is free again (glibc; elsewhere nothing happens here).

By default it hands large blocks back to the system at once and asks for fresh ones a moment later. Every first touch of
a fresh page is a fault: a photograph on its way through EfficientNet-Lite0 takes thousands, a quarter of the time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from pathlib import Path

from eachmask.accel import is_on

MAX_KEPT_PIECE = 64 << 20
"""Bytes: larger blocks still come from the system and go back to it."""
MAX_KEPT = 256 << 20
"""Bytes that may lie free for the next image at the end of the heap."""
MAX_UNUSED = 512 << 20
"""Bytes that may lie free anywhere; below what a large image needs, each would pay for fresh pages."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


@cache
def keep_freed_memory() -> None:
    """From now on, keep freed memory for the next image, up to :data:`MAX_KEPT`.

    It holds for the whole process. Where the environment sets malloc's thresholds, they stay.
    """
    if not is_on("malloc"):
        return
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return
    mallopt(_MMAP_THRESHOLD, MAX_KEPT_PIECE)
    mallopt(_TRIM_THRESHOLD, MAX_KEPT)


def give_back_freed_memory() -> None:
    """Ask the C library for what it keeps of memory that is free again.

    Loading and folding leave many holes of megabytes, with ResNet-50 a tenth of a gigabyte, and the first image's
    large maps leave more: the weights' fast layouts, made when a layer first runs, would be put beside them.
    """
    global _least
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
    _least = _unused()


def limit_freed_memory() -> None:
    """The same where more than :data:`MAX_UNUSED` lies free, to be called after each image.

    By itself the C library looks at the end of its heap alone. After images of many sizes there are small blocks in use
    everywhere, and more than a gigabyte lay free between them.
    """
    if _least is not None and (unused := _unused()) is not None and unused - _least > MAX_UNUSED:
        give_back_freed_memory()


_least: int | None = None
"""What :func:`_unused` gave when nothing was kept."""


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h, glibc 2.33."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def _unused() -> int | None:
    """Bytes of memory that this process alone has and that malloc has not lent out; None where that cannot be asked."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except (AttributeError, OSError, TypeError):
        return None
    ask.restype = _Mallinfo
    found = ask()
    return (resident - shared) * mmap.PAGESIZE - int(found.uordblks) - int(found.hblkhd)
