"""Where the files are that data.yaml and lists of images name: inside the data set, or where the user allows it.

Sets come with paths of the computer on which they were made, and may come from anyone: a path that leads out of the set
means its longest end inside, and is never opened as it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from eachmask.data.elsewhere import ImageFolder, before_upload
from eachmask.data.formats.yolo_write import label_place
from eachmask.data.images.files import files_below, first_file

SPLITS = ("train", "val", "valid", "test")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def end_inside(base: Path, place: str) -> Path | None:
    """What a path of another computer means in a folder: its longest end that is there; of ``val/images`` not
    ``images``, which may be those of another split."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        return None
    of_a_split = len(parts) > 1 and parts[-2] in SPLITS and parts[-1] == "images"
    tries = (base.joinpath(*parts[i:]) for i in range(len(parts) - of_a_split))
    return next((path for path in tries if path.exists()), None)


def is_darknets(folder: str) -> bool:
    """Whether a folder's name is that of darknet's images and texts of one split."""
    return folder.startswith("obj_") and folder.endswith("_data")


def is_foreign(place: str) -> bool:
    """Whether a path says where something is on one computer."""
    return place.startswith(("/", "\\")) or bool(_DRIVE.match(place))


class Places:
    """The folders that may be looked into.

    Args:
        base: the data set's own.
        images: the user's, for images.
    """

    def __init__(self, base: Path, images: Path | None) -> None:
        self.base, self.images = base, images
        self._listed: dict[Path, list[Path]] = {}
        """Image of a list -> the places that its line may mean, beside which its text may lie."""

    def find(self, entry: str, root: str = ".") -> Path | None:
        """The folder or list that an entry of data.yaml names.

        Args:
            root: its entry ``path``, from which the others start.
        """
        place = entry.replace("\\", "/")
        # exports often say ../train/images, relative to a folder that is not there
        tries = [*self._literal(place, root), self.base / place.removeprefix("../")]
        found = next((path for path in tries if self._is_allowed(path) and path.exists()), None)
        ends = (end_inside(folder, place) for folder in (self.base, self.images) if folder is not None)
        return found or next((path for path in ends if path is not None), None)

    def by_labels(self, entry: str, root: str) -> list[Path]:
        """The images of the user's folder that have a text file in the set, among those of an entry."""
        if self._elsewhere is None:
            return []
        place = entry.replace("\\", "/")
        folders = {label_place(path, "labels") for path in self._literal(place, root) if self._is_allowed(path)}
        found = []
        for folder in filter(None, folders):
            for text in files_below(folder, "*.txt"):
                stems = text.with_suffix(""), text.relative_to(folder).with_suffix("")
                image = next(filter(None, (self._elsewhere.of_stem(stem.as_posix()) for stem in stems)), None)
                if image is not None:
                    self._listed[image] = [text]
                    found.append(image)
        return found

    def is_outside(self, entry: str, root: str) -> bool:
        """Whether there is such a place, where it may not be looked at."""
        return any(path.exists() and not self._is_allowed(path) for path in self._literal(entry, root))

    def is_literal(self, entry: str, place: Path) -> bool:
        """Whether a place is what an entry says, word by word."""
        return os.path.normpath(entry) == os.path.abspath(place)

    def image(self, name: str, beside: Path, root: str) -> Path:
        """The image that a line of a list names, from the list's own folder or from the data set's; where it should be,
        if it is not there."""
        tries = [path for path in (beside / name, *self._literal(name, root)) if self._is_allowed(path)]
        ends = [end_inside(folder, name) for folder in (beside, self.base, self.images) if folder is not None]
        tries += [path for path in ends if path is not None]
        found = next((path for path in tries if path.is_file()), None)
        found = found or (self._elsewhere.named(name) if self._elsewhere else None)
        found = found or next(iter(tries), self.base / Path(name).name)
        self._listed[found] = tries
        return found

    def labels(self, image: Path, kind: str) -> Path | None:
        """An image's text file: in the folder ``kind`` that stands beside ``images``, beside the image or where a list
        has it, or, of an image that is not in the set, of its name in the set."""
        beside = [place.with_suffix(".txt") for place in (image, *self._listed.get(image, []))]
        tries = [path for text in beside for path in (label_place(text, kind), text if kind == "labels" else None)]
        found = first_file([path for path in tries if path is not None])
        if found is None and self.images is not None:
            texts = self._texts.get(image.stem, ())
            named = [p for p in texts if kind in p.parts or (kind == "labels" and any(map(is_darknets, p.parts)))]
            return named[0] if len(named) == 1 else None
        return found

    def _literal(self, place: str, root: str) -> Iterator[Path]:
        folder = self.base / root.replace("\\", "/")
        yield from (folder / place, self.base / place)

    def _is_allowed(self, path: Path) -> bool:
        """By the words of the path: a link inside the set is its owner's."""
        plain = Path(os.path.abspath(path))
        folders = [folder for folder in (self.base, self.images) if folder is not None]
        return any(plain.is_relative_to(os.path.abspath(folder)) for folder in folders)

    @cached_property
    def _elsewhere(self) -> ImageFolder | None:
        return None if self.images is None else ImageFolder(self.images)

    @cached_property
    def _texts(self) -> dict[str, list[Path]]:
        """The text files of the set, by their names, and by those that their images had before an upload."""
        found: dict[str, list[Path]] = {}
        for path in files_below(self.base, "*.txt"):
            for stem in {path.stem, before_upload(path.stem)}:
                found.setdefault(stem, []).append(path)
        return found
