"""For tests that measure memory in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
WITH_BENCHMARKS = os.environ | {
    "PYTHONPATH": os.pathsep.join(part for part in (str(BENCHMARKS), os.environ.get("PYTHONPATH", "")) if part)
}
"""An environment in which ``from peak_memory import peak_mb`` works."""
