"""Format: one annotation format, as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eachmask.data.dataset import Dataset
from eachmask.files.progress import Progress


@dataclass(frozen=True)
class Format:
    """How to know, to read and to write it."""

    name: str
    looks_like: Callable[[Path], bool]
    """Whether a folder, or an annotation file, is a data set of this format."""
    marks: str
    """What ``looks_like`` looks for, for people."""
    read: Callable[[Path, Progress], Dataset]
    write: Callable[[Path, Dataset, Progress], list[str]]
    """Returns notes on what the format cannot say."""
