"""Label maps where well-known data sets have them, read as ``label-maps``.

Cell Tracking Challenge: images ``01/t000.tif``, maps ``01_GT/SEG/man_seg000.tif``, or ``01_ST`` where it has more.
NuInsSeg: images ``ORGAN/tissue images/a.png``, maps ``ORGAN/label masks/a.tif``.
A map in ``labels/all``, where the studio saves what was corrected, goes before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from eachmask.data.formats.paired import Pair, named, pairs_in
from eachmask.data.images.files import image_files
from eachmask.data.problems import Problem
from eachmask.files.text import counted

_IMAGE, _MAP = re.compile(r"t(\d+)"), re.compile(r"man_seg(\d+)")
_TRUTHS = ("GT", "ST")
_TISSUE = ("tissue images", "label masks")


def has_layout(source: Path) -> bool:
    """Whether a folder is such a data set."""
    return source.is_dir() and next(_folders(source), None) is not None


def pairs_of_layout(source: Path) -> tuple[list[Pair], list[Problem]]:
    """Its images with their maps, and what to say of those that stand alone; names begin with the folder's."""
    found: list[Pair] = []
    problems: list[Problem] = []
    for images, maps in _folders(source):
        pairs, more = pairs_in(images, maps, "label map") if maps.name == _TISSUE[1] else _of_sequence(images, maps)
        top = images.relative_to(source).parts[0]
        found += [_named(pair, f"{top}/{pair.image.name}", source) for pair in pairs]
        problems += more
    return found, problems


def _named(pair: Pair, name: str, source: Path) -> Pair:
    corrected = named(Path(name).with_suffix(""), source / "labels" / "all")
    return Pair("all", name, pair.image, corrected or pair.file)


def _folders(source: Path) -> Iterator[tuple[Path, Path]]:
    """Of images and of their maps."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        images, maps = (folder / name for name in _TISSUE)
        if images.is_dir() and maps.is_dir():
            yield images, maps
        truths = [source / f"{folder.name}_{truth}" / "SEG" for truth in _TRUTHS]
        most = max(truths, key=lambda truth: len(_numbered(truth, _MAP)))
        if folder.name.isdigit() and _numbered(most, _MAP):
            yield folder, most


def _of_sequence(images: Path, maps: Path) -> tuple[list[Pair], list[Problem]]:
    frames, numbers = _numbered(images, _IMAGE), _numbered(maps, _MAP)
    pairs = [Pair("all", file.name, frames[n], file) for n, file in numbers.items() if n in frames]
    remedy = "put the image there or delete the file"
    alone = [file for n, file in numbers.items() if n not in frames]
    problems = [Problem(str(file), "", "it has no image", remedy, "missing") for file in alone]
    left = len(frames) - len(pairs)
    if left:
        what, remedy = f"{counted(left, 'image')} of {images.name} have no map in it", "they are left out"
        problems.append(Problem(str(maps), "", what, remedy, "image", "note", left))
    others = [file for file in image_files(maps) if file not in numbers.values()]
    if others:
        what = f"{others[0].name} is the map of one plane of a volume, as are {len(others) - 1} more"
        problems.append(Problem(str(maps), "", what, "they are left out", "volume", "warning", len(others)))
    return pairs, problems


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The images of a folder that are called so, by their numbers."""
    files = image_files(folder) if folder.is_dir() else []
    return {int(own[1]): file for file in files if (own := pattern.fullmatch(file.stem))}
