"""What the C library does with memory that is free again (glibc; elsewhere nothing happens here).

By default it hands large blocks back to the system at once and asks for fresh ones a moment later. Every first touch of
a fresh page is a fault: a photograph on its way through EfficientNet-Lite0 takes thousands, a quarter of the time.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

from eachmask.accel import is_on

MAX_KEPT_PIECE = 64 << 20
"""Bytes: larger blocks still come from the system and go back to it."""
MAX_KEPT = 256 << 20
"""Bytes that may lie free for the next image."""

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
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
