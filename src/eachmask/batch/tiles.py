"""The tiles of an image that is not done yet, in the journal's folder: a run that is killed within it resumes there."""

from __future__ import annotations

import contextlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from eachmask.files.journal import Journal
from eachmask.tasks.kept import Kept

T = TypeVar("T", bound=Any)


@dataclass(frozen=True)
class TileFiles(Generic[T]):
    """A :class:`~eachmask.inference.engine.TileStore` of one file per tile.

    They are a convenience: what is damaged is not there, and what cannot be written is not kept.
    """

    journal: Journal
    folder: Path
    kept: Kept[T]

    def load(self, number: int, size: tuple[int, int]) -> T | None:
        """What the tile of this number and (height, width) gave, if it is known."""
        try:
            with np.load(self._file(number), allow_pickle=False) as arrays:
                return self.kept.from_arrays({name: arrays[name] for name in arrays.files}, size)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, number: int, found: T) -> None:
        """Keep what a tile gave."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **cast("Any", self.kept.to_arrays(found)))
        with contextlib.suppress(OSError):
            self.journal.write(self._file(number), buffer.getvalue())

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.npz"
