"""Numbers that users give, checked in one place and refused in a sentence."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from eachmask.structures.errors import UserError


def check_number(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """A number from ``low`` to ``high``.

    Raises:
        UserError: it is none, or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"the {name} must be a number, not {value!r}")
    if (low is not None and not float(value) >= low) or (high is not None and not float(value) <= high):
        bounds = f"lie in {low:g}..{high:g}" if low is not None and high is not None else f"be at least {low:g}"
        raise UserError(f"the {name} must {bounds}, not {float(value):g}")


def check_whole(name: str, value: Any, low: int) -> None:
    """A whole number of at least ``low``.

    Raises:
        UserError: it is none, or less.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"the {name} must be a whole number, not {value!r}")
    if value < low:
        raise UserError(f"the {name} must be at least {low}, not {value}")
