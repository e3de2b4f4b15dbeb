"""XML of strangers: parsed without document type declarations, so that no entity can grow or fetch files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat

from eachmask.structures import UserError

_MAX_BYTES = 1 << 30
"""Of what is held in memory together."""


class _Refused(Exception):
    """A DOCTYPE was found."""


class _Guarded:
    """A file to parse, whose beginning is looked at first: a DOCTYPE behind the first element is no XML anyway.

    Any encoding that the parser knows, UTF-16 too: it is a parser that meets the declaration.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._begun = False
        self._guard = expat.ParserCreate()
        self._guard.StartDoctypeDeclHandler = self._refuse
        self._guard.StartElementHandler = self._begin
        self.held = 0
        """Bytes read since the caller has let go of what was parsed."""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not self._begun:
            self._guard.Parse(data, not data)
        self.held += len(data)
        if self.held > _MAX_BYTES:
            raise UserError(f"{self._path} holds more than 1 GiB in one piece: split the export into parts")
        return data

    def _refuse(self, *_: object) -> None:
        raise _Refused

    def _begin(self, *_: object) -> None:
        self._begun = True


def parse_xml(path: Path) -> ElementTree.Element:
    """The root element of a file.

    Raises:
        UserError: the file is missing, no XML, or has a DOCTYPE (which could hold entity bombs).
    """
    with _guarded(path) as source:
        return ElementTree.parse(source).getroot()


def children_of_root(path: Path, root: str) -> Iterator[ElementTree.Element]:
    """What lies directly in the root element, one after the other; each is emptied when the next is asked for.

    Memory is that of the largest one, however long the file.

    Args:
        root: the tag that the root must have.

    Raises:
        UserError: as :func:`parse_xml`, once the reading has come so far; or the root has another tag.
    """
    with _guarded(path) as source:
        top, depth = ElementTree.Element(root), 0
        for event, element in ElementTree.iterparse(source, ("start", "end")):
            if event == "start":
                top = top if depth else element
                depth += 1
                if top.tag != root:
                    raise UserError(f"{path} is of another format: its root must be <{root}>, not <{top.tag}>")
                continue
            depth -= 1
            if depth == 1:
                yield element
                top.clear()
                source.held = 0


@contextmanager
def _guarded(path: Path) -> Iterator[_Guarded]:
    try:
        with open(path, "rb") as file:
            yield _Guarded(file, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except _Refused:
        raise UserError(f"{path} has a DOCTYPE, which annotations do not need: remove that line") from None
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid XML ({error}): if it was cut off, copy or export it again") from None


def write_xml(path: Path, root: ElementTree.Element) -> None:
    """Write an element as a UTF-8 file, indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def write_children(path: Path, root: str, children: Iterable[ElementTree.Element]) -> None:
    """The same, with what lies directly in the root element given one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(f"<?xml version='1.0' encoding='utf-8'?>\n<{root}>\n")
        for element in children:
            ElementTree.indent(element, level=1)
            file.write(f"  {ElementTree.tostring(element, encoding='unicode')}\n")
        file.write(f"</{root}>")
