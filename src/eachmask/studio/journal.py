"""The studio's journal: every action is on the disk before it is answered; a torn last line is cut off."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eachmask.files.journal import compact_json
from eachmask.files.lock import lock


class ActionJournal:
    """Lines of ``checksum TAB JSON``, only ever appended to.

    Args:
        folder: of ``actions.jsonl``; made if missing. One process at a time has it.

    Raises:
        UserError: another process has it.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(folder / "lock", folder)
        self._file = open(folder / "actions.jsonl", "a+b")  # noqa: SIM115 - closed by close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """All whole lines; what follows the last one is cut off, a damaged one is passed over."""
        self._file.seek(0)
        end = 0
        for line in iter(self._file.readline, b""):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            checksum, _, text = line[:-1].partition(b"\t")
            if checksum == b"%08x" % zlib.crc32(text):
                yield json.loads(text)
        self._file.truncate(end)

    def append(self, entry: Mapping[str, Any]) -> None:
        """One more, on the disk when this returns."""
        text = compact_json(entry).encode()
        self._file.seek(0, os.SEEK_END)
        self._file.write(b"%08x\t%s\n" % (zlib.crc32(text), text))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()
        self._lock.close()
