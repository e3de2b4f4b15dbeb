"""Saving over the files that were there: what says the same stays as it is, byte for byte, with all that the package
does not know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from eachmask.data.formats.yolo_texts import NAMES
from eachmask.data.formats.yolo_write import label_place
from eachmask.data.images.files import files_below

_SAYING = ("labels", "annotations", "images")
"""Folders that say what is in them."""
YAML = (".yaml", ".yml")


def digests(place: Path, images: Collection[Path]) -> dict[str, str]:
    """SHA-256 of an annotation file, or of all files of a folder that are no images, by absolute name."""
    if not place.exists():
        return {}
    return {str(path): _digest(path) for path in ([place] if place.is_file() else _annotations(place, images))}


def _annotations(folder: Path, images: Collection[Path]) -> Iterable[Path]:
    every = [path for path in files_below(folder) if path not in images]
    return [path for path in every if path.relative_to(folder).parts[0] != "images"]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def places(made: Collection[Path], root: Path, known: Collection[Path], splits: Collection[str]) -> dict[Path, Path]:
    """Where each made file belongs: over the known file that is called alike, whatever folder its split has; else
    where the package puts it.

    Args:
        made: relative to ``root``.
        known: annotation files that are there.

    >>> places([Path("all/a.json")], Path("/labels"), [Path("/labels/a.json")], ["all"])
    {PosixPath('all/a.json'): PosixPath('/labels/a.json')}
    """

    alike: dict[tuple[str, ...], list[Path]] = {}
    for path in known:
        alike.setdefault(without_split(path.relative_to(root), splits), []).append(path)
    found = {}
    for path in made:
        others = alike.get(without_split(path, splits), [])
        found[path] = others[0] if len(others) == 1 and root / path not in known else root / path
    return found


def unchanged(
    made: Mapping[Path, bytes],
    untouched: Mapping[Path, bytes],
    bare: Mapping[Path, bytes],
    there: Collection[Path],
    classes_changed: bool,
) -> set[Path]:
    """The made files that need not be written.

    Args:
        untouched: what is made of the images alone that were not changed.
        bare: what is made of no image: these files speak of the classes too, or of them alone.
        there: those that are on the disk.
    """
    same = {path for path in there if untouched.get(path) == made[path]}
    return same - set(bare) if classes_changed else same | {path for path in made if bare.get(path) == made[path]}


def without_split(path: Path, splits: Collection[str]) -> tuple[str, ...]:
    """A relative path's parts without the folders that say what is in them."""
    return tuple(part for part in path.parts if part not in _SAYING and part not in splits)


def settled(form: str, path: Path, image: Path, root: Path, known: Collection[Path], splits: Collection[str]) -> Path:
    """Where the file of an image belongs that had none: where other programs look for it.

    Args:
        path: where the package would put it, ``labels/all/b.txt`` or ``all/b.json``, relative to ``root``.
        image: its file.
        known: annotation files that are there.

    >>> root, image = Path("/set"), Path("/set/images/b.png")
    >>> settled("labelme", Path("all/b.json"), image, root, [root / "a.json"], ["all"])
    PosixPath('/set/b.json')
    >>> settled("yolo", Path("labels/all/b.txt"), image, root, [root / "labels/a.txt"], ["all"])
    PosixPath('/set/labels/b.txt')
    """
    flat = not any(set(file.relative_to(root).parts) & set(splits) for file in known)
    if form == "labelme" and flat:
        return root / Path(*path.parts[1:])
    if form == "yolo" and path.parts[0] == "labels":
        own = label_place(image.with_suffix(path.suffix), "labels")
        if own is not None and own.is_relative_to(root):
            return own
        if not any(file.suffix in YAML for file in known):  # texts alone
            return root / Path(*path.parts[2:])
    return root / path


def names_file(root: Path, known: Collection[Path]) -> Path | None:
    """The file that names YOLO's classes, one a line, where that is no data.yaml; None where it is."""
    if not known or any(file.suffix in YAML for file in known):
        return None
    return next((file for file in known if file.name in NAMES), root / NAMES[0])
