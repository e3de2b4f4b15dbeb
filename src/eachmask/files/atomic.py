"""Files that are there whole or not at all, whatever interrupts their writing, a power cut included."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO


@contextmanager
def replacing(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A name to write under; its file takes the place of ``path`` when the block ends without an error.

    The file has the permissions that the user's own files have.

    Args:
        part: the name, on the same disk; by default ``path`` with ``.part`` behind it. It is gone afterwards.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part") if part is None else part
    try:
        part.touch()
        mode = part.stat().st_mode  # some libraries leave a file for its owner alone
        yield part
        part.chmod(mode)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_from_folder(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """The same for libraries that write under further names beside the one that they are given, as safetensors does:
    what a kill leaves of those lies in a folder, and the next writing clears it.

    Args:
        folder: on the same disk; by default ``path`` with ``.part`` behind it. It is gone afterwards.

    Raises:
        OSError: it cannot be written.
    """
    folder = path.with_name(path.name + ".part") if folder is None else folder
    if folder.is_dir():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)  # what a kill leaves of other writing is a file
    folder.mkdir()
    try:
        with replacing(path, folder / path.name) as part:
            yield part
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk."""
    with open(part, "rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(part, path)


@contextmanager
def atomic(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file that takes the place of ``path`` when the block ends without an error, and is gone otherwise."""
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        yield file
        file.close()


@contextmanager
def atomic_bytes(path: Path, part: Path | None = None) -> Iterator[BinaryIO]:
    """The same for bytes."""
    with replacing(path, part) as name, open(name, "wb") as file:
        yield file
        file.close()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as file:
        file.write(text)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_bytes(path) as file:
        file.write(data)
