"""Dataset: a whole data set between disk and whatever is done with it, every object as packed runs.

Each format's file has a ``read_...`` that returns one and a ``write_...`` that takes one. Reading never
stops at one bad annotation: what cannot be used is left out and written down as a :class:`Problem`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from typing_extensions import TypeVar

from eachmask.data.image_files import ImageFiles
from eachmask.data.problems import Problem
from eachmask.data.split import AnnotatedImage, Split
from eachmask.structures import Category

S = TypeVar("S", bound=ImageFiles[Any], default=Split)
"""What a data set's images are in: a :class:`~eachmask.data.split.Split` of objects, a
:class:`~eachmask.data.file_split.FileSplit` of maps and mattes."""


@dataclass(frozen=True)
class Dataset(Generic[S]):
    """Images by split (``train``, ``val`` ...; ``all`` where the format has none)."""

    categories: tuple[Category, ...]
    splits: dict[str, S]
    problems: list[Problem] = field(default_factory=list)
    """What could not be used, and what is odd."""
    category_fields: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By category id, what else a COCO file says of it: LVIS's ``frequency``, ``synset`` ..."""

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {len(split)}" for name, split in self.splits.items())
        return f"Dataset({len(self.categories)} classes; images {parts}; {len(self.problems)} problems)"

    def images(self: Dataset[Split]) -> Iterator[tuple[str, AnnotatedImage]]:
        """(split, view) of every image with its objects."""
        for name, split in self.splits.items():
            yield from ((name, image) for image in split.images())

    @property
    def nbytes(self) -> int:
        """Memory that images and annotations take, bytes."""
        return sum(split.nbytes for split in self.splits.values())

    def with_splits(self, splits: Mapping[str, S]) -> Dataset[S]:
        """Other images of the same classes."""
        return Dataset(self.categories, dict(splits), self.problems, self.category_fields)

    def renamed(self, names: Sequence[str]) -> Dataset[S]:
        """The classes under other names, their ids kept."""
        categories = tuple(replace(old, name=new) for old, new in zip(self.categories, names, strict=True))
        splits = {name: replace(split, categories=categories) for name, split in self.splits.items()}
        return Dataset(categories, splits, self.problems, self.category_fields)

    def relabeled(self, labels: Sequence[int], categories: tuple[Category, ...]) -> Dataset[S]:
        """Of other classes: label k becomes ``labels[k]`` of ``categories``. Further fields of the old ones (LVIS's
        frequency) are left behind: they say nothing of the new."""
        splits = {name: split.relabeled(labels, categories) for name, split in self.splits.items()}
        return Dataset(categories, splits, self.problems)
