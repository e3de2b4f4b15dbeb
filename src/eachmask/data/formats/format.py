"""Format: one annotation format, as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eachmask.data.dataset import Dataset
from eachmask.files.progress import Progress
from eachmask.structures import Instances


@dataclass(frozen=True)
class Format:
    """How to know, to read and to write it."""

    name: str
    looks_like: Callable[[Path], bool]
    """Whether a folder, or an annotation file, is a data set of this format."""
    marks: str
    """What ``looks_like`` looks for, for people."""
    read: Callable[..., Dataset[Any]]
    """``(source, progress)``, and ``images``, the folder that the user names for them, where it ``takes_images``."""
    write: Callable[[Path, Dataset[Any], Progress], list[str]]
    """``(target, data, progress)``; returns notes on what the format cannot say."""
    takes_images: bool = False
    """Its annotations cannot be read without the images. Other formats' images are looked for afterwards."""
    target: type[Any] = Instances
    """What its samples' targets are: models of another task cannot learn from them."""
