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
    read: Callable[..., Dataset]
    """``(source, progress)``, and ``images``, the folder that the user names for them, where it ``takes_images``."""
    write: Callable[[Path, Dataset, Progress], list[str]]
    """``(target, data, progress)``; returns notes on what the format cannot say."""
    takes_images: bool = False
    """Its annotations cannot be read without the images. Other formats' images are looked for afterwards."""
