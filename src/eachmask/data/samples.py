"""Samples[T]: a set of samples of one kind of target, whatever it is kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from typing_extensions import TypeVar

from eachmask.data.sample import Sample
from eachmask.structures import Category, Instances

T = TypeVar("T", default=Instances)


class Samples(Protocol[T]):
    """As many samples as it says, any of them at any time; :class:`~eachmask.data.split.Split` is one of instances.

    A set that workers share should be cheap to pickle: a few arrays rather than many objects.
    """

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that targets speak of."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample[T]:
        """Read one image, with its targets."""
        ...

    def targets(self, index: int) -> T:
        """What is annotated in image ``index``, without reading the image."""
        ...

    def path(self, index: int) -> Path:
        """The image's file."""
        ...
