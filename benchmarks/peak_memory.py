"""How much memory this process holds, and the most that it ever held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_mb() -> float:
    """Peak resident memory of this process, in units of 2^20 bytes.

    Linux's ``ru_maxrss`` counts the parent's memory too, where a large parent started this process; the kernel's own
    high-water mark does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def held_mb() -> float:
    """Resident memory of this process now, on Linux, in units of 2^20 bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
