"""The tiles of an image that is not done yet, in the journal's folder: a run that is killed within it resumes there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

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
            return self.kept.from_bytes(self._file(number).read_bytes(), size)
        except (OSError, ValueError):
            return None

    def save(self, number: int, found: T) -> None:
        """Keep what a tile gave."""
        with contextlib.suppress(OSError):
            self.journal.write(self._file(number), self.kept.to_bytes(found))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.npz"
