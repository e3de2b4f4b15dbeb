"""YOLO's texts alone, without data.yaml: the folder ``labels`` of LabelImg, Roboflow and CVAT, or what Ultralytics'
``predict save_txt`` leaves.

The classes' names are in ``classes.txt`` or ``obj.names``, beside the texts or in the folder above; where they are not,
classes have their numbers. Images are where the user says, in ``images`` beside ``labels``, or beside the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.yolo_places import Places
from eachmask.data.images.files import files_below, image_files
from eachmask.data.images.read import SUFFIXES
from eachmask.data.problems import Problem
from eachmask.files.text import read_text
from eachmask.structures import Category, UserError

NAMES = ("classes.txt", "obj.names")
_NUM_LOOKED_AT = 20
"""Texts that have to look like YOLO's for a folder to be taken for theirs."""
_NUMBER = re.compile(r"\d+")


def is_texts(folder: Path) -> bool:
    """Whether a folder holds YOLO's texts, perhaps beside their images, and nothing else."""
    texts: list[Path] = []
    others: list[Path] = []
    for path in files_below(folder):
        (texts if path.suffix.lower() == ".txt" else others).append(path)
    texts, others = _without_names(texts), _without_names(others)
    if not {path.suffix.lower() for path in others} <= SUFFIXES:
        return False
    if others and not {path.stem for path in others} & {path.stem for path in texts}:
        return False
    lines = [_first_line(path) for path in texts[:_NUM_LOOKED_AT]]
    return any(lines) and all(_is_yolos(line.split()) for line in lines if line)


def _without_names(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.name not in NAMES]


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return next((line for line in (file.readline(100_000) for _ in range(3)) if line.strip()), "").strip()


def _is_yolos(words: Sequence[str]) -> bool:
    """A class's number, a box or an outline in shares of the image, and perhaps the number of a track."""
    if len(words) < 5 or not _NUMBER.fullmatch(words[0]):
        return False
    shares = words[1:-1] if _NUMBER.fullmatch(words[-1]) else words[1:]
    try:
        return all(-1 <= float(word) <= 2 for word in shares)
    except ValueError:
        return False


def texts_in(folder: Path) -> list[Path]:
    """The texts of objects below a folder."""
    return _without_names(files_below(folder, "*.txt"))


def names_file(folder: Path) -> Path | None:
    """The file that names the classes: beside the texts, in the folder ``labels`` or in the folder above."""
    places = [base / name for base in (folder, folder / "labels", folder.parent) for name in NAMES]
    return next((place for place in places if place.is_file()), None)


def listed(names: Path) -> list[str]:
    """The lines of a list of classes."""
    return [line.strip() for line in read_text(names).splitlines() if line.strip()]


def ends_in_tracks(lines: Sequence[str]) -> bool:
    """Whether each line ends in the number of a track, as Ultralytics' ``track save_txt`` writes them: from 1, where
    shares of an image end and scores too."""
    last = [line.split()[-1] for line in lines if line.strip()]
    numbers = [int(word) for word in last if _NUMBER.fullmatch(word) and len(word) < 9]
    return len(numbers) == len(last) and min(numbers, default=0) > 0 and max(numbers, default=0) > 1


def without_last(line: str) -> str:
    """The line without its last number."""
    return " ".join(line.split()[:-1])


class Texts(Places):
    """The images of a folder of texts, and the text of each.

    Args:
        folder: of the texts.
        images: the user's, for images.

    Raises:
        UserError: there are no images.
    """

    def __init__(self, folder: Path, images: Path | None) -> None:
        super().__init__(folder, images)
        beside = folder.parent / "images"
        paired = images is None and folder.name == "labels" and beside.is_dir()
        self.start = images or (beside if paired else folder)
        known = ImageFolder(self.start)
        self.text_of: dict[Path, Path] = {}
        """Image -> its text."""
        self.lonely: list[Path] = []
        """Texts without an image."""
        for text in texts_in(folder):
            image = known.of_stem(text.relative_to(folder).with_suffix("").as_posix())
            if image is None:
                self.lonely.append(text)
            else:
                self.text_of[image] = text
        if not self.text_of:
            raise UserError(f"{folder} holds YOLO's texts, and {self.start} no image of theirs: name it with --images")
        self.files = list(self.text_of) if images is not None else image_files(self.start)
        """All images: of a folder of the user's, those that have a text."""

    def labels(self, image: Path, kind: str) -> Path | None:
        """The text file of an image."""
        text = self.text_of.get(image)
        if text is None or kind == "labels":
            return text
        own = self.base.parent / kind / text.relative_to(self.base)  # as the package writes them
        return own if self.base.name == "labels" and own.is_file() else None

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """The classes by name, or by number."""
        if self.names is not None:
            names = listed(self.names)
        else:
            names = [f"class {number}" for number in range(1 + max(map(_highest, self.text_of.values())))]
        return tuple(Category(number, name) for number, name in enumerate(names, start=1))

    @cached_property
    def names(self) -> Path | None:
        """The file that names the classes."""
        return names_file(self.base)

    def problems(self) -> list[Problem]:
        """What to say of the folder."""
        found = [
            Problem(str(path), "", "it has no image", "put the image there or delete the file", "missing")
            for path in self.lonely
            if path.stat().st_size
        ]
        if self.names is None:
            known = self.categories
            what = f"nothing says what its {len(known)} classes are called, so that they are class 0 and so on"
            remedy = f"write their names, one a line, into {self.base / NAMES[0]}"
            found.append(Problem(str(self.base), "", what, remedy, "category", "note"))
        return found


def _highest(text: Path) -> int:
    """The highest class of a text."""
    words = (line.split(maxsplit=1) for line in read_text(text).splitlines())
    return max((int(own[0]) for own in words if own and _NUMBER.fullmatch(own[0])), default=0)
