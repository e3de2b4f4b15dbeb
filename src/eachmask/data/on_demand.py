"""OnDemand: a sequence whose values are made when they are asked for: a data set of maps never lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class OnDemand(Sequence[T]):
    """As many values as it says, each made anew whenever it is looked at.

    >>> squares = OnDemand(3, lambda place: place * place)
    >>> list(squares), squares[-1], squares[1:]
    ([0, 1, 4], 4, [1, 4])
    """

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._make(place) for place in range(self._length)[index]]
        return self._make(range(self._length)[index])
