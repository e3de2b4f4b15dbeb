"""Numbers and paths that users give, checked in one place and refused in a sentence."""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any

from eachmask.structures.errors import UserError


def told(value: Any) -> str:
    """A value as a sentence says it: ``None`` is nothing.

    >>> told(None), told("x")
    ('nothing', "'x'")
    """
    return "nothing" if value is None else repr(value)


def kind_of(value: Any) -> str:
    """What a value is, as a sentence says it: the name of its type, or nothing.

    >>> kind_of([1, 2]), kind_of(None)
    ('list', 'nothing')
    """
    return "nothing" if value is None else type(value).__name__


def check_path(name: str, value: Any) -> None:
    """A path, as text or of ``pathlib``.

    Raises:
        UserError: it is none.

    >>> try:
    ...     check_path("image", 3)
    ... except UserError as error:
    ...     print(error)
    the image must be a path, not 3
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"the {name} must be a path, not {told(value)}")


def check_number(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """A number from ``low`` to ``high``.

    Raises:
        UserError: it is none, or lies outside.

    >>> try:
    ...     check_number("score threshold", 2, 0, 1)
    ... except UserError as error:
    ...     print(error)
    the score threshold must lie in 0..1, not 2
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"the {name} must be a number, not {told(value)}")
    if (low is not None and not float(value) >= low) or (high is not None and not float(value) <= high):
        bounds = f"lie in {low:g}..{high:g}" if low is not None and high is not None else f"be at least {low:g}"
        raise UserError(f"the {name} must {bounds}, not {float(value):g}")


def check_whole(name: str, value: Any, low: int) -> None:
    """A whole number of at least ``low``.

    Raises:
        UserError: it is none, or less.

    >>> try:
    ...     check_whole("tile", 0, 1)
    ... except UserError as error:
    ...     print(error)
    the tile must be at least 1, not 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"the {name} must be a whole number, not {told(value)}")
    if value < low:
        raise UserError(f"the {name} must be at least {low}, not {value}")
