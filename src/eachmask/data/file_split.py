"""FileSplit: images whose targets are files of their own: maps of classes, of segments, of opacities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from eachmask.data.image_files import ImageFiles
from eachmask.data.packed import Texts
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.spatial import Labeled, Spatial

T = TypeVar("T", bound=Spatial, default=Instances)

ReadTarget = Callable[[Path, tuple[Category, ...], Mapping[str, Any]], T]
"""(the target's file, the classes that it speaks of, what else is known of the image) -> the target."""
Doubts = Callable[[Path, Mapping[str, Any]], str]
"""(a target's file, what else is known of the image) -> what of it was not understood and does not count; mostly ""."""


@dataclass(frozen=True, eq=False, repr=False)
class FileSplit(ImageFiles[T]):
    """n images with a file each that says what is annotated, read when it is asked for: a ``Samples[T]``.

    It is a few arrays, cheap to hand to a worker: ``read`` and ``read_given`` are functions of a module.
    """

    targets_in: Texts
    """(n,) the files of the targets."""
    read: ReadTarget[T]
    known: tuple[Category, ...]
    """The classes that the files speak of."""
    labels: tuple[int, ...] | None = None
    """Label in ``known`` -> label in ``categories``; None: they are the same."""
    entries: Texts | None = None
    """(n,) JSON: what else is known of each image, for ``read``: the segments of a panoptic map."""
    doubts: Doubts | None = None
    """Asked where a data set is examined."""
    given_in: Texts | None = None
    """(n,) the files of what a user hands over: trimaps, clean backgrounds."""
    read_given: Callable[[Path], Spatial] | None = None

    def __repr__(self) -> str:
        return f"FileSplit({len(self)} images of {len(self.categories)} classes)"

    def targets(self, index: int) -> T:
        """What is annotated in image ``index``.

        Raises:
            UserError: its file cannot be read, or is of another size than the image.
        """
        file, size = Path(self.targets_in[index]), self.image_size(index)
        target = self.read(file, self.known, self.entry(index))
        if target.image_size != size:
            raise UserError(
                f"{file} is {target.image_size[1]} x {target.image_size[0]}, its image {size[1]} x {size[0]}: both "
                "must be of one size; restore the one that was scaled"
            )
        if self.categories == self.known or not isinstance(target, Labeled):
            return target
        return target.relabeled(dict(enumerate(self._labels())), self.categories)

    def given(self, index: int) -> Spatial | None:
        if self.given_in is None or self.read_given is None:
            return None
        return self.read_given(Path(self.given_in[index]))

    @property
    def num_objects(self) -> int:
        """Images: each is annotated as a whole."""
        return len(self)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        chosen = np.asarray(indices, np.int64).reshape(-1)
        return replace(
            self,
            names=self.names.take(chosen),
            files=self.files.take(chosen),
            numbers=self.numbers[chosen],
            sizes=self.sizes[chosen],
            targets_in=self.targets_in.take(chosen),
            entries=None if self.entries is None else self.entries.take(chosen),
            given_in=None if self.given_in is None else self.given_in.take(chosen),
        )

    def relabeled(self, labels: Sequence[int], categories: tuple[Category, ...]) -> Self:
        return replace(self, labels=tuple(labels[label] for label in self._labels()), categories=categories)

    def _labels(self) -> Sequence[int]:
        return range(len(self.known)) if self.labels is None else self.labels
