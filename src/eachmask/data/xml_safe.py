"""XML of strangers: parsed without document type declarations, so that no entity can grow or fetch files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from eachmask.structures import UserError

_MOST_BYTES = 1 << 30


class _Refused(Exception):
    """A DOCTYPE was found."""


def parse_xml(path: Path) -> ElementTree.Element:
    """The root element of a file.

    Raises:
        UserError: the file is missing, no XML, or has a DOCTYPE (which could hold entity bombs).
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is larger than 1 GiB: split the export into parts")
        data = path.read_bytes()
        _refuse_doctype(data)
        return ElementTree.fromstring(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except _Refused:
        raise UserError(f"{path} has a DOCTYPE, which annotations do not need: remove that line") from None
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid XML ({error}): export it again") from None


def _refuse_doctype(data: bytes) -> None:
    """Any encoding that the parser knows, UTF-16 too: it is the parser that meets the declaration."""

    def refuse(*_: object) -> None:
        raise _Refused

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(data, True)


def write_xml(path: Path, root: ElementTree.Element) -> None:
    """Write an element as a UTF-8 file, indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
