"""Problem: something wrong with a data set, told with its remedy. Reading continues after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eachmask.files.text import printable


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file or one of its annotations, and what to do about it."""

    file: str
    annotation: str
    """Which annotation of the file; "" where it is the file itself."""
    what: str
    remedy: str
    kind: str = "annotation"
    """What sort of problem, for counting."""
    severity: str = "error"
    """``error``, ``warning`` or ``note``."""
    count: int = 1
    """How many objects it is about."""

    def __str__(self) -> str:
        where = f"{self.file}, {self.annotation}" if self.annotation else self.file
        return printable(f"{where}: {self.what}; {self.remedy}")


SEVERITIES = ("error", "warning", "note")
"""The worst first."""


def gravity(problem: Problem) -> int:
    """A key that sorts the worst first."""
    return SEVERITIES.index(problem.severity)


def reason(error: Exception) -> str:
    """What to say of an entry that raised this while it was read: not Python's own words."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}" if error.args else "something is missing in it"
    if isinstance(error, IndexError | TypeError | AttributeError):
        return "it has another form than expected"
    return str(error)


def only_boxes(file: Path, number: int) -> Iterator[Problem]:
    """What to say of a file, or a folder, with so many objects that have no outline; nothing where there are none."""
    if number:
        what, remedy = f"objects with a box and no outline: {number}", "their boxes are taken for masks; outline them"
        yield Problem(str(file), "", what, remedy, "box only", "warning", number)


def lossy_masks(file: Path, number: int) -> Iterator[Problem]:
    """What to say of a folder with so many masks in JPEG; nothing where there are none."""
    if number:
        what, remedy = f"{number} masks are JPEG, which blurs their edges", "they are cut at half; save masks as PNG"
        yield Problem(str(file), "", what, remedy, "JPEG mask", "warning")
