"""Warnings as sentences for people at a terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eachmask.files.text import printable

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def warnings_as_notes(console: Console) -> Iterator[None]:
    """Our own warnings without the line of code they come from; those of libraries are for developers, and silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module="eachmask")
        warnings.showwarning = lambda message, *_, **__: console.print(
            f"Note: {printable(str(message))}", markup=False, soft_wrap=True
        )
        yield
