"""The journal of a run: what is done, so that a run killed at any moment resumes where it was.

One line per image is appended to ``.journal/records.jsonl`` after the image's own files are complete:
``checksum TAB header TAB body`` (:mod:`eachmask.files.record_lines`). Headers are small and kept in memory by name;
bodies (annotations, table, thumbnail) stay on disk and are streamed when the final files are put together, so memory
does not grow with what is found.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol

from eachmask.files.atomic import atomic_bytes
from eachmask.files.lock import lock
from eachmask.files.record_lines import RecordLines
from eachmask.structures import UserError

FOLDER = ".journal"
"""Subfolder of a results folder; a search for images passes over it."""
_FORMAT = 3
_TILES = "tiles"


class Source(Protocol):
    """What a record is about: a file in a certain state, and what its outputs are called."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def output(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def modified(self) -> int: ...


@dataclass(frozen=True)
class Entry:
    """Where the record of an image lies, and for which state of its file it holds."""

    offset: int
    path: str
    output: str
    size: int
    modified: int
    whole: bool = True
    """Its files are all there."""


class Journal:
    """The journal of the results folder ``out``; use it as a context manager.

    Args:
        out: made if missing.
        settings: everything that decides the results, by the names that the user knows; JSON-ready.
        made: names in ``out`` that a run makes.
        overwrite: begin anew; what the journal knows is removed, what others put there stays.
        renew: the same, but only where ``out`` holds results of other settings.

    Raises:
        UserError: ``out`` holds results of other settings, or another process is writing there.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        made: tuple[str, ...],
        overwrite: bool = False,
        *,
        renew: bool = False,
    ) -> None:
        self.out, self.folder = out, out / FOLDER
        self.settings, self.made, self.overwrite, self.renew = dict(settings), made, overwrite, renew
        self.entries: dict[str, Entry] = {}
        self._numbers = itertools.count()  # of parts, for several threads
        self._inside: dict[Path, bool] = {}

    def __enter__(self) -> Journal:
        check_free(self.out, self.made, self.overwrite)
        if self.folder.is_symlink():
            raise self.damaged()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / "lock", self.out)
        except OSError as error:
            raise UserError(f"{self.out} cannot be written to ({error.strerror or error})") from None
        try:
            shutil.rmtree(self.folder / "parts", ignore_errors=True)
            (self.folder / "parts").mkdir()
            self._lines = RecordLines(self.folder / "records.jsonl")
            self._read()
            if self.overwrite:
                self._clear()
            self._check_settings()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        self._lock.close()

    def is_done(self, source: Source) -> bool:
        """Whether this state of the file has its record and its outputs under its present name.

        Name, size and time alone would take a.bmp of one unpacked archive for that of another.
        """
        entry = self.entries.get(source.name)
        return entry is not None and entry == _entry(entry.offset, source)

    def forget(self, source: Source) -> None:
        """Remove the files of an older record of this image, before it is done anew."""
        if source.name in self.entries:
            self._remove(self.header(source).get("files"))

    def drop(self, name: str) -> None:
        """Remove an image's files and forget its record, for good."""
        head = _parsed_head(self._lines.at(self.entries.pop(name).offset))
        self._remove(head.get("files") if head else None)
        self._lines.append(compact_json({"name": name, "dropped": True}))

    def append(self, source: Source, header: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        """Record an image whose files are complete; from now on it is done."""
        head = {
            "name": source.name, "path": str(source.path), "output": source.output, "size": source.size,
            "modified": source.modified, **header,
        }  # fmt: skip
        offset = self._lines.append(f"{compact_json(head)}\t{compact_json(body)}")
        self.entries[source.name] = _entry(offset, source)
        self.forget_tiles(source)

    def take_over(self, other: Journal, source: Source) -> None:
        """Move the files of an image that is done in another journal, on the same disk, and record it here."""
        header, body = other.header(source), other.body(source)
        for name in header.get("files", ()):
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (other.out / name).replace(self.out / name)
        self.append(source, header, body)

    def tiles(self, source: Source) -> Path:
        """Folder for what the tiles of a large image gave, as long as it is not done; of this state of its file."""
        state = [source.name, str(source.path), source.size, source.modified]
        return self.folder / _TILES / hashlib.sha256(compact_json(state).encode()).hexdigest()[:24]

    def forget_tiles(self, source: Source | None = None) -> None:
        """Remove what tiles gave: an image's, or all that is left."""
        shutil.rmtree(self.folder / _TILES if source is None else self.tiles(source), ignore_errors=True)

    def header(self, source: Source) -> dict[str, Any]:
        """The header of an image that is done.

        Raises:
            UserError: it is damaged.
        """
        return self._half(source, 0)

    def body(self, source: Source) -> dict[str, Any]:
        """The body of an image that is done.

        Raises:
            UserError: it is damaged.
        """
        return self._half(source, 1)

    def _half(self, source: Source, number: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self._lines.at(self.entries[source.name].offset).split(b"\t", 1)[number]))
        except (ValueError, TypeError, IndexError, RecursionError):
            raise self.damaged() from None

    def damaged(self) -> UserError:
        """What to say of a journal that does not hold what a run writes."""
        return UserError(f"{self.folder} is damaged: --overwrite to begin anew, or choose another --out")

    def write(self, path: Path, data: bytes) -> None:
        """A file of the results, complete or absent; folders are made."""
        with self.replacing(path) as handle:
            handle.write(data)

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Iterator[BinaryIO]:
        """A binary file that takes the place of ``path`` when the block ends without an error."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_bytes(path, self.folder / "parts" / str(next(self._numbers))) as handle:
            yield handle

    def _read(self) -> None:
        """Index the records."""
        for offset, text in self._lines:
            head = _parsed_head(text)
            if head is None:
                self.entries.pop(_dropped(text), None)
            else:
                path = head.get("path", "")  # a folder of format 1 has none, and is refused further on
                files = [self._place(name) for name in head.get("files", ())]
                whole = all(file is not None and file.exists() for file in files)
                self.entries[head["name"]] = Entry(offset, path, head["output"], head["size"], head["modified"], whole)

    def _check_settings(self) -> None:
        path = self.folder / "run.json"
        requested = _to_compare(self.settings)
        if not path.exists():
            self.write(path, (json.dumps(requested, indent=1) + "\n").encode())
            return
        before = _recorded(path)
        if before is None:
            if not self.renew:
                raise self.damaged()
            before = {}
        changed = [key for key in requested if before.get(key) != requested[key]]
        if changed and self.renew:
            self._clear()
            self._check_settings()
        elif changed:
            details = ", ".join(
                f"{key} was {_shown(before.get(key))} and is {_shown(requested[key])}" for key in changed
            )
            raise UserError(
                f"{self.out} holds results of other settings ({details}): choose another --out, or --overwrite to "
                "begin anew"
            )

    def _clear(self) -> None:
        """Remove what the recorded run made; its settings last, so that no record ever outlives them."""
        for entry in self.entries.values():
            head = _parsed_head(self._lines.at(entry.offset))
            self._remove(head.get("files") if head else None)
        if (self.folder / "run.json").exists():
            for name in self.made:
                if (self.out / name).is_file():
                    (self.out / name).unlink()
        self._lines.clear()
        self.entries = {}
        self.forget_tiles()
        (self.folder / "run.json").unlink(missing_ok=True)

    def _remove(self, names: Any) -> None:
        """Files and folders of results, and folders that have become empty."""
        for name in names if isinstance(names, list) else ():
            path = self._place(name)
            if path is not None:
                _remove(path)
                _prune(path.parent, self.out)

    def _place(self, name: Any) -> Path | None:
        """Where a file is that a record names; None where no run would have put one.

        A journal can come with a folder from anywhere: what it names is touched only among the outputs of runs, and
        not behind a link that leads out of the folder.
        """
        if not isinstance(name, str) or "\0" in name:
            return None
        parts = PurePath(name).parts
        if not parts or parts[0] not in self.made or ".." in parts:
            return None
        path = self.out / name
        if path.parent not in self._inside:
            self._inside[path.parent] = path.parent.resolve().is_relative_to(self.out.resolve())
        return path if self._inside[path.parent] else None


def check_free(out: Path, made: Sequence[str], overwrite: bool = False) -> None:
    """Raises a UserError where a folder holds what a run would make and no earlier run made; arguments as of
    :class:`Journal`."""
    foreign = next((name for name in made if (out / name).exists()), None)
    if foreign and not (out / FOLDER / "run.json").exists() and not overwrite:
        raise UserError(
            f"{out} holds {foreign}, which no earlier run made: choose another --out, or --overwrite to write into it "
            "all the same"
        )


def recorded_paths(out: Path) -> dict[str, Path]:
    """The images of a results folder by their names, where their files are still those that were predicted."""
    found: dict[str, Path] = {}
    try:
        with open(out / FOLDER / "records.jsonl", "rb") as file:
            heads = [_parsed_head(line.partition(b"\t")[2]) for line in file]
    except OSError:
        return found
    for head in heads:
        path = Path(str(head.get("path", ""))) if head else Path()
        if head and path.is_absolute() and path.is_file():
            status = path.stat()
            if (status.st_size, status.st_mtime_ns) == (head["size"], head["modified"]):
                found[head["name"]] = path
    return found


def holds_settings(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds a run of these very settings."""
    before = _recorded(out / FOLDER / "run.json")
    return before is not None and all(before.get(key) == value for key, value in _to_compare(settings).items())


def _to_compare(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON."""
    return {"format": _FORMAT, **json.loads(compact_json(settings))}


def _recorded(path: Path) -> dict[str, Any] | None:
    """The settings in a ``run.json``; None where it is not what a run writes."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return before if isinstance(before, dict) else None


def _parsed_head(text: bytes) -> dict[str, Any] | None:
    """What a record says of its image; None where it is not what a run writes."""
    try:
        head = json.loads(text.split(b"\t", 1)[0])
    except (ValueError, RecursionError):
        return None
    kinds = {"name": str, "output": str, "size": int, "modified": int}
    good = isinstance(head, dict) and all(isinstance(head.get(key), kind) for key, kind in kinds.items())
    return head if good and isinstance(head.get("files", []), list) else None


def _dropped(text: bytes) -> str:
    """The name of the image whose record holds no more, if a line says so; else nothing."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(line.get("name", "")) if isinstance(line, dict) and line.get("dropped") is True else ""


def _entry(offset: int, source: Source) -> Entry:
    return Entry(offset, str(source.path), source.output, source.size, source.modified)


def _remove(path: Path) -> None:
    """A file or a folder of results, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prune(folder: Path, root: Path) -> None:
    """Remove folders that have become empty, up to root."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def compact_json(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def _shown(value: Any) -> str:
    text = "not set" if value in (None, "", []) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
