"""Text in CSV files that a spreadsheet would run as a formula, made harmless and read again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(value: str | int | float) -> str | int | float:
    """A name that a spreadsheet would run as a formula gets an apostrophe; numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def escaped(text: str) -> str:
    """The same, so that :func:`unescaped` gives back every text."""
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def unescaped(text: str) -> str:
    """Undo of :func:`escaped`."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def csv_text(rows: Iterable[Sequence[str | int | float]]) -> str:
    """Rows -> lines of CSV (RFC 4180 quoting, ``\\n`` line ends) in which no spreadsheet finds a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # only so does Python quote names with a \r in them
    writer.writerows([harmless(value) for value in row] for row in rows)
    return buffer.getvalue().replace("\r\n", "\n")
