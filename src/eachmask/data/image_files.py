"""ImageFiles: the images of one part of a data set, packed, whatever is annotated in them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from eachmask.data.images.read import read_image
from eachmask.data.packed import Texts
from eachmask.data.sample import Sample
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.spatial import Spatial

T = TypeVar("T", default=Instances)

_PATHS = ("files", "targets_in", "given_in")
"""Fields that name files."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageFiles(ABC, Generic[T]):
    """n images: a ``Samples[T]``. :class:`~eachmask.data.split.Split` keeps the objects in each,
    :class:`~eachmask.data.file_split.FileSplit` where the file is that says the rest."""

    categories: tuple[Category, ...]
    names: Texts
    """(n,) relative POSIX paths, unique within the split, with a suffix."""
    files: Texts
    """(n,) the image files; they may be missing."""
    numbers: NDArray[np.int64]
    """(n,) what a COCO file numbers the images; elsewhere, and where it calls them otherwise, their places."""
    sizes: NDArray[np.int64]
    """(n, 2) height and width."""

    @abstractmethod
    def targets(self, index: int) -> T:
        """What is annotated in image ``index``, without reading the image."""

    @abstractmethod
    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """The chosen images, in the given order."""

    @abstractmethod
    def relabeled(self, labels: Sequence[int], categories: tuple[Category, ...]) -> Self:
        """Of other classes: label k becomes ``labels[k]`` of ``categories``."""

    @property
    @abstractmethod
    def num_objects(self) -> int:
        """What there is to learn from: objects, or images that are annotated as a whole."""

    @property
    def nbytes(self) -> int:
        """Memory, bytes, whatever the number of worker processes."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return sum(int(value.nbytes) for value in values if isinstance(value, Texts | np.ndarray))

    @property
    def digest(self) -> str:
        """Twelve letters that are others where names, annotations or the sizes of files are; it does not matter in
        which folders they lie."""
        found = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Texts) and field.name in _PATHS:
                value = np.array([_bytes_of(file) for file in value], np.int64)
            if isinstance(value, Texts | np.ndarray):
                found.update(field.name.encode() + value.tobytes())
        return found.hexdigest()[:12]

    def given(self, index: int) -> Spatial | None:
        """What a user hands over beside image ``index``."""
        return None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample[T]:
        """Read one image.

        Raises:
            UserError: the file is missing, broken or of another size than its annotations.
        """
        # by arrays alone: parsing an entry for each sample would cost more than its targets
        image, targets = self.image(index), self.targets(index)
        return Sample(image, targets, self.path(index), int(self.numbers[index]), given=self.given(index))

    def __iter__(self) -> Iterator[Sample[T]]:
        return (self[i] for i in range(len(self)))

    def path(self, index: int) -> Path:
        """The image's file."""
        return Path(self.files[index])

    def image(self, index: int) -> NDArray[Any]:
        """Image ``index`` alone, (H, W, 3), turned by its EXIF orientation exactly if it was annotated so.

        Raises:
            UserError: it cannot be read, or has another size than its annotations.
        """
        path, size = self.path(index), self.image_size(index)
        for upright in (True, False):
            image = read_image(path, upright=upright)
            if image.shape[:2] == size:
                return image
        shown = read_image(path).shape
        raise UserError(
            f"{path} is {shown[1]} x {shown[0]}, but its annotations are for {size[1]} x {size[0]}: restore the "
            "annotated image, or mend the annotations (eachmask doctor --fix)"
        )

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) that image ``index`` was annotated at."""
        height, width = self.sizes[index].tolist()
        return height, width

    def entry(self, index: int) -> dict[str, Any]:
        """What a COCO file says of image ``index`` beside its size."""
        entries: Texts | None = getattr(self, "entries", None)
        found: dict[str, Any] = {} if entries is None else json.loads(entries[index])
        return found

    def image_id(self, index: int) -> Any:
        """The number, or the text, that a COCO file calls image ``index`` by; elsewhere its place, from 0."""
        return self.entry(index).get("id", int(self.numbers[index]))

    def file_name(self, index: int) -> str:
        """The image's name as a COCO file gives it, which may name folders that ``names`` leave out."""
        return str(self.entry(index).get("file_name", self.names[index]))

    def held_out(self, share: float, seed: int) -> tuple[Self, Self]:
        """(the others, a share of the images, at least one), drawn by the seed."""
        chosen = np.random.default_rng([seed, 4]).permutation(len(self))[: max(1, int(len(self) * share))]
        others = np.setdiff1d(np.arange(len(self)), chosen)
        return self.take(others), self.take(np.sort(chosen))

    def renamed(self, names: Sequence[str]) -> Self:
        """The images under other names."""
        return replace(self, names=Texts.of(names))


@dataclass(frozen=True, eq=False)
class ImageView(Generic[T]):
    """A view of one image of a split; what it gives is unpacked anew each time, so keep it at hand."""

    split: ImageFiles[T]
    index: int

    @property
    def name(self) -> str:
        """Relative POSIX path, unique within its split, with a suffix."""
        return self.split.names[self.index]

    @property
    def stem(self) -> str:
        """The name without its suffix, folders kept."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def path(self) -> Path:
        """The image file; it may be missing."""
        return self.split.path(self.index)

    @property
    def targets(self) -> T:
        """What is annotated."""
        return self.split.targets(self.index)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that it was annotated at."""
        return self.split.image_size(self.index)


def _bytes_of(file: str) -> int:
    """How large a file is; 0 where it is missing."""
    try:
        return Path(file).stat().st_size
    except (OSError, ValueError):
        return 0
