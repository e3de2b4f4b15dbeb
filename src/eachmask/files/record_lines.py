"""Lines with a checksum each, only ever appended: ``checksum TAB text``.

A process may be killed at any moment. What it leaves of a last line is cut off when the file is read again, and a line
whose checksum does not match is passed over.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path


class RecordLines:
    """A file of such lines, which one process at a time has open.

    Args:
        path: made if missing.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by close()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Where each whole line begins, and its text; what follows the last whole one is cut off."""
        self._file.seek(0)
        end = 0
        for line in iter(self._file.readline, b""):
            if not line.endswith(b"\n"):
                break
            offset, end = end, end + len(line)
            checksum, _, text = line[:-1].partition(b"\t")
            if checksum == b"%08x" % zlib.crc32(text):
                yield offset, text
        self._file.truncate(end)

    def append(self, text: str, *, synced: bool = False) -> int:
        """One more line; where it begins.

        Args:
            synced: it is on the disk when this returns, so that a power cut does not take it back.

        Raises:
            OSError: it cannot be written, and nothing of it was: half a line would spoil the next one.
        """
        data = text.encode()
        offset, file = self._file.seek(0, os.SEEK_END), self._file.fileno()
        rest = b"%08x\t%s\n" % (zlib.crc32(data), data)
        try:
            while rest:  # past Python's buffer, which would write later what failed now
                rest = rest[os.write(file, rest) :]
            if synced:
                os.fsync(file)
        except OSError:
            self._file.truncate(offset)
            raise
        return offset

    def at(self, offset: int) -> bytes:
        """The text of the line that begins there, unchecked."""
        self._file.seek(offset)
        return self._file.readline().partition(b"\t")[2]

    def clear(self) -> None:
        """Forget all lines."""
        self._file.truncate(0)

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()
