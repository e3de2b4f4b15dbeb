"""Problem: something wrong with a data set, told with its remedy. Reading continues after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


_NO_NUMBER = ("could not convert", "invalid literal", "cannot convert")
"""What Python begins with."""


def reason(error: Exception) -> str:
    """What to say of an entry that raised this while it was read: not Python's own words."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}" if error.args else "something is missing in it"
    if isinstance(error, IndexError | TypeError | AttributeError):
        return "it has another form than expected"
    return "it holds what is no number" if str(error).startswith(_NO_NUMBER) else str(error)


class NoAreaError(ValueError):
    """A point or a line was drawn: nothing is wrong with it, but it outlines no object."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"a {kind} has no area")


def unread(file: Path, where: str, error: Exception, remedy: str = "draw it anew or delete it") -> Problem:
    """What to say of a shape that raised this while it was read."""
    if isinstance(error, NoAreaError):
        return Problem(str(file), where, str(error), "it is left out", "left out", "note")
    return Problem(str(file), where, f"it cannot be read ({reason(error)})", remedy)


def gathered(problems: Iterable[Problem]) -> list[Problem]:
    """Notes of what was left out as one of each sort, with their number, at the place of the first; the rest as it is.

    >>> point = Problem("a.json", "shape 2", "a point has no area", "it is left out", "left out", "note")
    >>> [str(problem) for problem in gathered([point, point])]
    ['a.json, shape 2, the first of 2: a point has no area; it is left out']
    """
    alike: dict[Any, list[Problem]] = {}
    for number, problem in enumerate(problems):
        known = (problem.what, problem.remedy) if (problem.kind, problem.severity) == ("left out", "note") else number
        alike.setdefault(known, []).append(problem)
    return [_one_of(some) for some in alike.values()]


def _one_of(alike: Sequence[Problem]) -> Problem:
    first, number = alike[0], sum(problem.count for problem in alike)
    if len(alike) == 1:
        return first
    files = len({problem.file for problem in alike})
    several = f"{number} in {files} files" if files > 1 else f"{number}"
    return replace(first, annotation=f"{first.annotation}, the first of {several}", count=number)


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
