"""Text files as tools write them: with a byte order mark or without, in UTF-8, UTF-16 or a Windows code page."""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path

from eachmask.structures.errors import UserError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, or turns the order of its letters."""
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """A text file's content, without its byte order mark.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None


def decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 where its mark says so, or else Western Europe's code page 1252.

    Raises:
        UnicodeDecodeError: none of them.
    """
    if data.startswith(_WIDE):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in data:
            raise
        return data.decode("cp1252")


def printable(text: str) -> str:
    """Text with names of strangers in it, for a terminal: control characters are written as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: object, *, error: bool = False) -> None:
    """Print to the terminal, or to standard error, :func:`printable`."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout)


def counted(number: int, one: str) -> str:
    """A number with its noun: 1 object, 1,200 objects.

    >>> counted(1, "object"), counted(1200, "object"), counted(2, "class")
    ('1 object', '1,200 objects', '2 classes')
    """
    return f"{number:,} {plural(number, one)}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """The noun of so many."""
    return one if number == 1 else many or (f"{one}es" if one.endswith("s") else f"{one}s")


def is_utf8(path: Path) -> bool:
    """Whether a file can be read as UTF-8, looked at piece by piece."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                decoder.decode(piece)
        decoder.decode(b"", final=True)
    except (OSError, UnicodeDecodeError):
        return False
    return True
