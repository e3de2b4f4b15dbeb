"""The studio's journal: every action is on the disk before it is answered; a torn last line is cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eachmask.files.journal import compact_json
from eachmask.files.lock import lock
from eachmask.files.record_lines import RecordLines


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
        self._lock = lock(folder / "lock", folder, "go on in the page of the studio that has it, or end it")
        self._lines = RecordLines(folder / "actions.jsonl")

    def lines(self) -> Iterator[dict[str, Any]]:
        """All whole lines; what follows the last one is cut off, a damaged one is passed over."""
        for _, text in self._lines:
            yield json.loads(text)

    def append(self, entry: Mapping[str, Any]) -> None:
        """One more, on the disk when this returns."""
        self._lines.append(compact_json(entry), synced=True)

    def close(self) -> None:
        """Let another process have it."""
        self._lines.close()
        self._lock.close()
