"""Files that a run writes and people change: what somebody has changed or removed is never written again.

Of each file its SHA-256 is noted in ``.journal/files.jsonl`` before it gets its name and again afterwards, so that a
process killed at any moment does not take its own file for a person's.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from eachmask.files.atomic import put_in_place

NOTES = "files.jsonl"
NEW = "new"
"""Folder in the results for the new version of what somebody has changed."""


@dataclass
class Placed:
    """What became of the files of a run."""

    written: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    """Somebody changed them; they are as they were."""
    removed: list[str] = field(default_factory=list)
    """Somebody removed them; they stay away."""
    beside: list[str] = field(default_factory=list)
    """Of the corrected ones, those whose new version lies in :data:`NEW`."""


@dataclass
class OwnFiles:
    """The files below ``root`` that runs wrote.

    Args:
        notes: file of what was written.
    """

    root: Path
    notes: Path
    known: dict[str, set[str]] = field(default_factory=dict)
    placed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        lines = self.notes.read_bytes().splitlines() if self.notes.is_file() else []
        for line in lines:
            try:
                name, digest, done = json.loads(line)
                self.known.setdefault(name, set()).add(digest)
            except (ValueError, TypeError, RecursionError):  # torn by a kill
                continue
            if done:
                self.placed.add(name)

    def put(self, folder: Path, into: str) -> Placed:
        """Move all files of ``folder`` to ``root/into``, except over what people have changed or removed."""
        result = Placed()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self._put(path, f"{into}/{path.relative_to(folder).as_posix()}", result)
        return result

    def _put(self, path: Path, name: str, result: Placed) -> None:
        target, digest = self.root / name, digest_of(path)
        known = self.known.get(name, set())
        if not target.exists():
            if name in self.placed:
                result.removed.append(name)
                return
        else:
            there = digest_of(target)
            if there == digest:
                self._note(name, digest, True)
                return
            if there not in known:
                result.corrected.append(name)
                if digest not in known:
                    self._move(path, self.root / NEW / name)
                    result.beside.append(name)
                return
        self._note(name, digest, False)
        self._move(path, target)
        self._note(name, digest, True)
        result.written.append(name)

    def _move(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(path, target)

    def _note(self, name: str, digest: str, done: bool) -> None:
        if digest in self.known.get(name, ()) and (name in self.placed or not done):
            return
        self.known.setdefault(name, set()).add(digest)
        if done:
            self.placed.add(name)
        with open(self.notes, "ab") as file:
            file.write(b"\n" + json.dumps([name, digest, done]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
