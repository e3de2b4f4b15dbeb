"""Progress: how a long loop shows that it goes on. The caller decides whether that is a bar, a log or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A function that loops pass their items through: ``for path in watch("reading", paths)``."""

    def __call__(self, what: str, items: Collection[T], /) -> Iterable[T]:
        """The same items, one after the other; ``what`` says in a word what is done to them."""
        ...


def no_progress(what: str, items: Collection[T], /) -> Iterable[T]:
    """The items; nobody is told."""
    del what
    return items
