"""A folder that is there whole or not at all, as a killed process must leave it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eachmask.files.lock import lock
from eachmask.structures import UserError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write to, which gets the name ``target`` when the block ends without an error.

    Until then it lies beside ``target`` in a hidden folder, and is gone if the block raises. What a killed process left
    there is removed by the next that writes to the same place.

    Args:
        target: a name that is free, or an empty folder.

    Raises:
        UserError: something is there already, or another process is writing it.
    """
    target = Path(os.path.realpath(target))  # a link stays, what it points to is written
    check_free(target)
    beside = target.parent / f".{target.name}.part"
    beside.mkdir(parents=True, exist_ok=True)
    held = lock(beside / "lock", target)
    part = beside / "data"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        _put_in_place(part, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        held.close()


def check_free(target: Path) -> None:
    """Raises UserError where ``target`` is a file, or a folder that is not empty."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"{target} is not empty: choose a new folder")


def _put_in_place(part: Path, target: Path) -> None:
    """Rename the folder; where that cannot be (``target`` is a mounted disk), what is in it."""
    check_free(target)
    try:
        if target.is_dir():
            target.rmdir()
        os.replace(part, target)
    except OSError:
        if not target.is_dir():
            raise
        for entry in sorted(part.iterdir()):
            shutil.move(entry, target / entry.name)
