"""Paired folders: images/[SPLIT/]NAME.* and, of the same relative names, files that say what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.file_split import Doubts, FileSplit, ReadTarget
from eachmask.data.image_files import ImageView
from eachmask.data.images.files import alike, copy_image, files_below, first_file, image_files, image_size
from eachmask.data.packed import Texts
from eachmask.data.problems import Problem
from eachmask.files.progress import Progress
from eachmask.structures import Category, UserError
from eachmask.structures.spatial import Spatial

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")
"""Of files with a value for each pixel, the best first."""
ENDS = ("", ".ome", "_mask", "_masks", "_label", "_labels")
"""What may stand behind an image's name in that of its file ..."""
STARTS = ("mask_", "masks_", "label_", "labels_")
"""... or before it: mask_a.png of a.png, mask_1.png of img_1.png."""
_OF_AN_IMAGE = re.compile(r"(image|img|im)_?(?=\d)", re.IGNORECASE)
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
IMAGES = ("images", "data")
"""Folders of images; the second is FiftyOne's."""
T = TypeVar("T", bound=Spatial)


@dataclass(frozen=True)
class Pair:
    """An image and its file."""

    split: str
    name: str
    """Relative POSIX path of the image in its split, with its suffix."""
    image: Path
    file: Path


def folder_in(source: Path, names: Sequence[str]) -> Path | None:
    """The first of the folders that is there, in letters of either case."""
    found = (alike(source / name) for name in names)
    return next((folder for folder in found if folder is not None and folder.is_dir()), None)


def has_pair(source: Path, names: Sequence[str]) -> bool:
    """Whether images/ and one of the folders are there, and that has images or nothing at all in it, and no texts; nor
    are there files of LabelMe's web version, which has Images and Masks too."""
    images, files = folder_in(source, IMAGES), folder_in(source, names)
    if images is None or files is None or files_below(source / "Annotations", "*.xml"):
        return False
    return bool(image_files(files)) or not files_below(files)


def roots_of(source: Path, names: Sequence[str]) -> list[Path]:
    """The folders of splits that have such a pair each, as StarDist's and others' sets: train/images, train/masks."""
    if folder_in(source, IMAGES) or not source.is_dir():
        return []
    roots = (path for path in sorted(source.iterdir()) if path.name.casefold() in SPLITS and has_pair(path, names))
    return [root for root in roots if image_files(folder_in(root, names) or root)]


def pairs_below(source: Path, names: Sequence[str], images: Path | None, what: str) -> tuple[list[Pair], list[Problem]]:
    """The pairs of a set, or of each of its splits; see :func:`pairs_in`.

    Raises:
        UserError: there are no such folders.
    """
    roots = roots_of(source, names) if images is None else []
    if not roots:
        return pairs_in(*folders_of(source, names, images), what)
    found: list[Pair] = []
    problems: list[Problem] = []
    for root in roots:
        pairs, more = pairs_in(*folders_of(root, names, None), what)
        found += [replace(pair, split=root.name) if pair.split == "all" else pair for pair in pairs]
        problems += more
    return found, problems


def folders_of(source: Path, names: Sequence[str], images: Path | None) -> tuple[Path, Path]:
    """Of images (or another folder that is named) and of their files, which may be all there is beside those.

    Raises:
        UserError: one of them is not there.
    """
    files = folder_in(source, names) or (source if images is not None and source.is_dir() else None)
    images = images or folder_in(source, IMAGES)
    if files is None or images is None or not images.is_dir():
        raise UserError(f"{source} must hold the folders images and {' or '.join(names)} with equal file names")
    return images, files


def pairs_in(images: Path, files: Path, what: str) -> tuple[list[Pair], list[Problem]]:
    """The images that have a file, and what to say of those on either side that stand alone.

    Args:
        what: a file is called in problems: ``label map``.
    """
    found: dict[Path, Pair] = {}
    problems: list[Problem] = []
    within = images != files and files.is_relative_to(images)
    for path in image_files(images):
        if within and path.is_relative_to(files):
            continue
        own = path.relative_to(images)
        stem = own.with_suffix("")
        plain = stem.with_suffix("") if stem.suffix == ".ome" else own  # a.tif of a.ome.tif, or a.png.tif of a.png
        file = _file_of(stem, files, images) or _file_of(plain, files, images)
        if file is None:
            is_folder = (files / stem).is_dir()
            remedy = f"make one number map of the files in {files / stem}" if is_folder else "add one"
            problems.append(Problem(str(path), "", f"there is no {what} {files / stem}.png", remedy, "image"))
            continue
        split, name = _split_of(file.relative_to(files).with_name(path.name))
        found[file] = Pair(split, name, path, file)
    alone = [file for file in image_files(files) if file.suffix.lower() in SUFFIXES and file not in found]
    remedy = "put the image there or delete the file"
    problems += [Problem(str(file), "", "it has no image", remedy, "missing") for file in alone]
    return list(found.values()), problems


def read_pairs(
    pairs: Sequence[Pair],
    categories: tuple[Category, ...],
    read: ReadTarget[T],
    problems: list[Problem],
    doubts: Doubts | None = None,
) -> Dataset[FileSplit[T]]:
    """A data set whose targets are read when they are asked for; an image that is none becomes a problem."""
    rows: dict[str, list[tuple[Pair, tuple[int, int]]]] = {}
    for pair in pairs:
        try:
            rows.setdefault(pair.split, []).append((pair, image_size(pair.image)))
        except UserError as error:
            problems.append(Problem(str(pair.image), "", str(error), "restore it from the original", "image"))
    splits = {name: _split(own, categories, read, doubts) for name, own in rows.items() if own}
    return Dataset(categories, splits, problems)


def _split(
    rows: Sequence[tuple[Pair, tuple[int, int]]],
    categories: tuple[Category, ...],
    read: ReadTarget[T],
    doubts: Doubts | None,
) -> FileSplit[T]:
    return FileSplit(
        categories=categories,
        names=Texts.of(pair.name for pair, _ in rows),
        files=Texts.of(str(pair.image) for pair, _ in rows),
        numbers=np.arange(len(rows)),
        sizes=np.array([size for _, size in rows], np.int64).reshape(-1, 2),
        targets_in=Texts.of(str(pair.file) for pair, _ in rows),
        read=read,
        known=categories,
        doubts=doubts,
    )


def copy_pairs(
    target: Path, folder: str, data: Dataset[FileSplit[Any]], progress: Progress
) -> Iterator[tuple[Path, Any]]:
    """Copy the images of a data set into ``target/images``; where each one's file belongs, and what goes into it."""
    places = [(name, split, i) for name, split in data.splits.items() for i in range(len(split))]
    for name, split, i in progress("writing", places):
        try:
            seen = split.targets(i)
        except UserError as error:
            data.problems.append(Problem(split.targets_in[i], "", str(error), "restore it", "label map"))
            continue
        copy_image(ImageView(split, i), target / "images" / name / split.names[i])
        path = (target / folder / name / split.names[i]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path, seen


def named(stem: Path, folder: Path) -> Path | None:
    """A folder's file of this relative name, which has no suffix; dots in it are part of the name."""
    number = _OF_AN_IMAGE.sub("", stem.name) if _OF_AN_IMAGE.match(stem.name) else stem.name
    names = [f"{stem.name}{end}" for end in ENDS]
    names += [start + own for own in dict.fromkeys((stem.name, number)) for start in STARTS]
    return first_file([folder / stem.parent / f"{name}{suffix}" for name in names for suffix in SUFFIXES])


def _file_of(stem: Path, files: Path, images: Path) -> Path | None:
    """An image's file: of the same relative name, or, where the user names another folder of images, of the last."""
    exact = named(stem, files)
    if exact is not None or images == folder_in(files.parent, IMAGES):
        return exact
    return ImageFolder(files).of_stem(stem.as_posix())


def _split_of(relative: Path) -> tuple[str, str]:
    """train/a/b.png -> (train, a/b.png); b.png -> (all, b.png)."""
    parts = relative.parts
    return (parts[0], Path(*parts[1:]).as_posix()) if len(parts) > 1 else ("all", relative.as_posix())
