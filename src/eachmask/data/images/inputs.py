"""From what a user types to a list of images: files, folders, patterns, lists, standard input.

Every image gets a name that is unique in the run: its path below the deepest folder that all inputs have in
common, with ``#page=N`` for the pages of a multi-page file. Outputs follow the same sub-folders, so images of
one name in different folders never meet.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TextIO

from eachmask.data.images.members import Member, holds_members, is_address, members
from eachmask.data.images.read import is_animation, looks_like_image, num_pages
from eachmask.data.images.url import is_url, place, stored
from eachmask.files import journal
from eachmask.structures import UserError

_RECURSIVE = re.compile(r"(^|/)\*\*(/|$)")
"""Folders at any depth, in a pattern."""
_LIST_SUFFIXES = (".txt", ".lst")
_CLUTTER = ("thumbs.db", "desktop.ini")
_RESULTS = (
    "overlays", "labels", "crops", "polygons", "csv", "geojson",
    "predictions.json", "instances.csv", "summary.json", "report.html",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One image to be read."""

    path: Path
    name: str
    """Unique in the run; what the outputs call it."""
    output: str
    """Unique relative path without suffix for the files made from it."""
    page: int = 1
    size: int = 0
    """Bytes of the file."""
    modified: int = 0
    """Time of the last change, ns."""
    problem: str = ""
    """Why it cannot be read, if that is known already."""
    member: Member | None = None
    """Where it lies, if it is no file of its own; nothing is at ``path`` then."""

    def at_hand(self) -> AbstractContextManager[Path]:
        """The file to read it from; a member of an archive is unpacked as long as it is needed."""
        return nullcontext(self.path) if self.member is None else self.member.at_hand()


@dataclass
class Inputs:
    """What was found."""

    sources: list[Source] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of what lay in a folder but is no image."""
    animations: list[str] = field(default_factory=list)
    """Names of sources of which the first frame alone is read."""
    asked: tuple[str, ...] = ()
    """What the user named, absolute: the same command names the same."""


def find_inputs(
    arguments: Sequence[str | Path],
    *,
    exclude: Path | None = None,
    stdin: TextIO | None = None,
    downloads: Path | None = None,
    channels: tuple[int, ...] = (),
    archives: bool = False,
) -> Inputs:
    """Find all images.

    Args:
        arguments: files; folders (searched to any depth, hidden entries left out); patterns (``*``, ``**``, ``?``);
            ``@list`` or ``list.txt`` with one name per line; ``-`` for names on standard input.
        exclude: a folder not to be searched: where the results go.
        stdin: read instead of ``sys.stdin``.
        downloads: folder for what http(s) addresses among the names hold; without it they are names of files.
        archives: look into tars, Parquet files and addresses of buckets too (:mod:`eachmask.data.images.members`).
        channels: of each image, that will be read; pages that are channels of one image are one image then.

    Returns:
        Images in the order of the arguments, within folders and patterns by name, each once. A named file that
        does not exist is among them with its ``problem``.

    Raises:
        UserError: there is nothing at all to do: no image, or only names of which none can be read.
    """
    if not arguments:
        raise UserError("name at least one image, folder, pattern or list, or - to read names")
    search = _Search(None if exclude is None else exclude.resolve(), downloads, archives)
    asked = []
    for argument in arguments:
        for entry, listed_in in _entries(str(argument), stdin):
            search.add(entry, listed_in)
            asked.append(
                _printable(
                    entry if is_url(entry) or (archives and is_address(entry)) else _absolute(Path(entry)).as_posix()
                )
            )
    if not search.files:
        reasons = f" ({len(search.skipped)} files there are no images)" if search.skipped else ""
        raise UserError(f"no images found in {', '.join(str(a) for a in arguments)}{reasons}")
    root = _common_folder(search.bases)
    sources = list(_pages([search.source(path, root) for path in search.files], channels))
    if all(source.problem for source in sources):
        said = [f"{s.name if s.path in search.failed else s.path} {s.problem}" for s in sources]
        raise UserError(", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else ""))
    skipped = [(_relative(path, root), reason) for path, reason in search.skipped]
    animations = [source.name for source in sources if not source.member and is_animation(source.path)]
    return Inputs(_with_outputs(sources), skipped, animations, tuple(asked))


@dataclass
class _Search:
    exclude: Path | None
    downloads: Path | None
    archives: bool = False
    members: dict[Path, Member] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    """Why an address could not be had."""
    files: dict[Path, None] = field(default_factory=dict)
    """Absolute paths in order, each once."""
    bases: dict[Path, None] = field(default_factory=dict)
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, entry: str, listed_in: Path | None) -> None:
        if not entry:  # an unset variable of a shell; as a path it would be the folder one is in
            raise UserError("one of the inputs is an empty name: name an image, folder, pattern or list")
        if self.downloads is not None and is_url(entry):
            self._address(entry, self.downloads)
            return
        if self.archives and holds_members(entry):
            self._members(entry)
            return
        path = Path(entry)
        # os.path: Path's own methods raise where a folder may not be looked into or a name is too long
        if listed_in is not None and not os.path.exists(path) and os.path.exists(listed_in.parent / entry):
            path = listed_in.parent / entry
        if os.path.isdir(path):
            self._folder(path)
        elif not os.path.exists(path) and glob.has_magic(entry):
            self._pattern(entry)
        else:
            self._file(path, path.parent)

    def source(self, path: Path, root: Path) -> Source:
        """An image, called by its path below the root."""
        member = self.members.get(path)
        if member is None:
            return _source(path, root, self.failed.get(path, ""))
        name = _relative(path, root)
        return Source(path, name, name, size=member.size, modified=member.modified, member=member)

    def _members(self, entry: str) -> None:
        for member in members(entry):
            self.members[member.path] = member
            self._file(member.path, member.base)

    def _address(self, url: str, folder: Path) -> None:
        path = place(url, folder)
        try:
            stored(url, folder)
        except UserError as error:
            self.failed[_absolute(path)] = f"was not fetched ({error})"
        self._file(path, path.parent)

    def _file(self, path: Path, base: Path) -> None:
        self.files[_absolute(path)] = None
        self.bases[_absolute(base)] = None

    def _pattern(self, pattern: str) -> None:
        fixed = Path(pattern[: next(i for i, c in enumerate(pattern) if c in "*?[")])
        base = fixed if pattern[: len(str(fixed)) + 1].endswith(("/", os.sep)) else fixed.parent
        found = sorted(_matches(pattern))
        files = [Path(name) for name in found if not os.path.isdir(name)]
        for path in files:
            if looks_like_image(path):
                self._file(path, base)
            else:
                self.skipped.append((_absolute(path), "not an image by its name or its first bytes"))
        if not files:
            for name in found:
                self._folder(Path(name))
        if not found:
            raise UserError(f"nothing matches the pattern {pattern}")

    def _folder(self, folder: Path) -> None:
        base = _absolute(folder)
        seen: set[str] = set()
        for here, folders, files in os.walk(base, followlinks=True, onerror=self._unreadable):
            real = os.path.realpath(here)
            if real in seen or (Path(here) != base and self._holds_results(Path(here), real)):
                folders.clear()
                continue
            seen.add(real)
            # The results may go where the images are.
            ours = _RESULTS if self._holds_results(Path(here), real) else ()
            folders[:] = sorted(n for n in folders if not n.startswith((".", "__MACOSX")) and n not in ours)
            for name in sorted(files):
                if name.startswith(".") or name.lower() in _CLUTTER or name in ours:
                    continue
                path = Path(here, name)
                if looks_like_image(path):
                    self._file(path, base)
                else:
                    self.skipped.append((path, "not an image by its name or its first bytes"))

    def _holds_results(self, here: Path, real: str) -> bool:
        return real == str(self.exclude) or os.path.exists(here / journal.FOLDER / "run.json")

    def _unreadable(self, error: OSError) -> None:
        self.skipped.append((Path(error.filename), f"folder cannot be read ({error.strerror})"))


def _matches(pattern: str) -> set[str]:
    """What a pattern matches. A folder that links lead to again, as into itself, is looked into once; ``glob`` would
    follow a loop until the name is too long, and two of them for ever."""
    recursive = _RECURSIVE.search(pattern)
    if recursive is None:
        return set(glob.glob(pattern))
    before, after = pattern[: recursive.start()] + recursive[1], pattern[recursive.end() :] or "*"
    found: set[str] = set()
    for top in glob.glob(before) if before else [""]:
        for folder in _folders_below(top):
            found |= _matches(os.path.join(glob.escape(folder), after))
    return found


def _folders_below(top: str) -> Iterator[str]:
    """The folder itself and all in it, hidden ones left out, each once."""
    seen: set[str] = set()
    for here, folders, _ in os.walk(top or ".", followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here if top else os.path.relpath(here).removeprefix(".")


def _entries(argument: str, stdin: TextIO | None) -> Iterator[tuple[str, Path | None]]:
    """An argument -> names, and the list file they stand in."""
    if argument == "-":
        yield from ((line, None) for line in _lines(_standard_input() if stdin is None else stdin.read()))
        return
    named = Path(argument[1:]) if argument.startswith("@") and not os.path.exists(argument) else None
    if named is None and Path(argument).suffix.lower() in _LIST_SUFFIXES and os.path.isfile(argument):
        named = Path(argument)
    if named is None:
        yield argument, None
        return
    try:
        lines = _lines(named.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"the list {named} cannot be read ({error.strerror or error})") from None
    yield from ((line, named) for line in lines)


def _standard_input() -> str:
    """Text; bytes of names that are none are kept, as in the file of a list."""
    binary = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if binary is None else binary.read().decode("utf-8-sig", "surrogateescape")


def _lines(text: str) -> list[str]:
    """One name a line, or, as of ``find -print0``, NULs between them."""
    return [line.strip() for line in text.split("\0" if "\0" in text else "\n") if line.strip()]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _common_folder(bases: dict[Path, None]) -> Path:
    try:
        return Path(os.path.commonpath([str(base) for base in bases]))
    except ValueError:  # on different drives
        return Path("/")


def _relative(path: Path, root: Path) -> str:
    """POSIX path below root; bytes that are no valid text are written as escapes."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[1:]
    return _printable("/".join(parts))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _source(path: Path, root: Path, problem: str) -> Source:
    source = Source(path, _relative(path, root), _relative(path, root), problem=problem)
    if problem:
        return source
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return replace(source, problem="does not exist" if missing else f"cannot be read ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        return replace(source, problem="is no file but a pipe, a socket or a device")
    return replace(source, size=status.st_size, modified=status.st_mtime_ns)


def _pages(sources: Sequence[Source], channels: tuple[int, ...]) -> Iterator[Source]:
    """Multi-page files -> one source per page."""
    for source in sources:
        # a TIFF may have any suffix: .lsm, .stk, .btf ...
        pages = 1 if source.problem or source.member else num_pages(source.path, channels)
        if pages == 1:
            yield source
            continue
        for page in range(1, pages + 1):
            yield replace(source, name=f"{source.name}#page={page}", page=page)


def _with_outputs(sources: Sequence[Source]) -> list[Source]:
    """Output paths: without the suffix where that is unique (also where case does not count), else with it."""
    stems = [_stem(source, keep_suffix=False) for source in sources]
    count: dict[str, int] = {}
    for stem in stems:
        count[stem.casefold()] = count.get(stem.casefold(), 0) + 1
    taken: set[str] = set()
    result = []
    for source, stem in zip(sources, stems, strict=True):
        output = stem if count[stem.casefold()] == 1 else _stem(source, keep_suffix=True)
        number = 1
        while output.casefold() in taken or (output != stem and output.casefold() in count):
            number += 1
            output = f"{_stem(source, keep_suffix=True)}~{number}"
        taken.add(output.casefold())
        result.append(replace(source, output=output))
    return result


def _stem(source: Source, keep_suffix: bool) -> str:
    plain = PurePosixPath(source.name.removesuffix(f"#page={source.page}"))
    stem = plain if keep_suffix or not plain.suffix else plain.with_suffix("")
    several = str(plain) != source.name
    return f"{stem}_page{source.page}" if several else str(stem)
