"""Images that are not in the data set's folder: where the user says they are, or where a model has seen them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path, PurePosixPath
from typing import Any

from eachmask.data.dataset import Dataset
from eachmask.data.image_files import ImageFiles
from eachmask.data.images.files import image_files, spelled
from eachmask.data.packed import Texts
from eachmask.data.problems import Problem
from eachmask.files.journal import recorded_paths

_UPLOAD = re.compile(r"^(?:.*\bupload/(?:\d+/)?[0-9a-f]{2,}|(?:.*/)?[0-9a-f]{8})-")
"""What Label Studio puts before the name of an uploaded file; in its folder of uploads fewer digits are enough."""

_OF_SETS = frozenset({"images", "labels", "all", "train", "val", "valid", "test"})
"""Folders that data sets have above the images' own."""


def before_upload(place: str) -> str:
    """The last name of a path (POSIX), without what an upload has put before it.

    >>> before_upload("3c5d1e2f-a.png"), before_upload("/data/upload/1/3c-a.png"), before_upload("scans/3c-a.png")
    ('a.png', 'a.png', '3c-a.png')
    """
    return PurePosixPath(_UPLOAD.sub("", place, count=1)).name


class ImageFolder:
    """The images below a folder, found by the ends of their names, however these are spelled; links that lead out of it
    are left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name: dict[str, list[Path]] = {}
        """By their last names, as :func:`spelled` has them."""
        self.by_stem: dict[str, list[Path]] = {}
        for path in image_files(folder):
            if path.resolve().is_relative_to(folder.resolve()):
                self.by_name.setdefault(spelled(path.name), []).append(path)
                self.by_stem.setdefault(spelled(path.stem), []).append(path)

    def named(self, name: str) -> Path | None:
        """The one image whose path ends like a relative POSIX path; at least the last name must agree."""
        own = PurePosixPath(name)
        found = self.by_name.get(spelled(own.name)) or self.by_name.get(spelled(before_upload(name)), [])
        return self.best([path for path in found if path.name == own.name] or found, own)

    def of_stem(self, name: str) -> Path | None:
        """The same without a suffix."""
        own = PurePosixPath(name)
        found = self.by_stem.get(spelled(own.name)) or self.by_stem.get(spelled(before_upload(name)), [])
        return self.best([path for path in found if path.stem == own.name] or found, own)

    def like(self, name: str, path: Path) -> Path | None:
        """The image of a name in the data set, or of the file that is missing; of another suffix where that is only a
        guess."""
        stems = [str(PurePosixPath(own).with_suffix("")) for own in (name, path.as_posix())]
        exact = self.named(name) or self.named(path.as_posix())
        return exact or self.of_stem(stems[0]) or self.of_stem(stems[1])

    def best(self, found: Sequence[Path], name: PurePosixPath) -> Path | None:
        """Of several the one with the same folders above it, as many as it takes to tell them apart; else that at the
        very place below the folder, but for the words of data sets that the name may begin with."""
        folders = name.parts[:-1]
        for i in range(len(folders) + 1):
            own = folders[i:]
            alike = [path for path in found if path.parts[-1 - len(own) : -1] == own]
            if len(alike) == 1:
                return alike[0]
        place = self.folder.joinpath(*dropwhile(_OF_SETS.__contains__, folders))
        there = [path for path in found if path.parent in (place, self.folder / name.parent)]
        return there[0] if len(there) == 1 else None


def with_images(data: Dataset[Any], source: Path, images: Path | None) -> Dataset[Any]:
    """The set with images that are missing found in the folder that the user names, or, of a results folder of
    ``eachmask predict``, where they were predicted; what was done is noted."""
    if all(split.path(i).is_file() for split in data.splits.values() for i in range(len(split))):
        return data
    if images is not None:
        folder = ImageFolder(images)
        return _found(data, folder.like, f"read from {images}")
    known = recorded_paths(source if source.is_dir() else source.parent)
    return _found(data, lambda name, _: known.get(name), "where they were predicted") if known else data


def _found(data: Dataset[Any], find: Callable[[str, Path], Path | None], where: str) -> Dataset[Any]:
    splits: dict[str, ImageFiles[Any]] = {}
    number, example = 0, Path()
    for name, split in data.splits.items():
        files, names = [split.path(i) for i in range(len(split))], list(split.names)
        for i, path in enumerate(files):
            other = None if path.is_file() else find(names[i], path)
            if other is not None:
                files[i], example, number = other, other, number + 1
                names[i] = str(PurePosixPath(names[i]).with_suffix(other.suffix))
        splits[name] = replace(split.renamed(names), files=Texts.of([str(path) for path in files]))
    if not number:
        return data
    what = f"{number} images are not in the data set's folder, for example {example.name}"
    data.problems.append(Problem(str(example.parent), "", what, f"they are {where}", "image", "note"))
    return data.with_splits(splits)
