"""What the classes of a VOC-like folder are called: VOC's own twenty only where it is VOC's own data.

``classes.txt`` (ours) lists ids and names, ``class_names.txt`` (labelme2voc) the names of the numbers in the class maps
from 0 on, ``labelmap.txt`` (CVAT) names and colors. Where there is none of them, the XML files say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.files import files_below
from eachmask.data.targets import named_categories
from eachmask.files.text import read_text
from eachmask.files.untrusted_xml import parse_xml
from eachmask.structures import Category, UserError

Color = tuple[int, int, int]
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""VOC's own twenty, ids 1..20."""

VOID_COLOR = (224, 224, 192)
"""Of 255, which belongs to no object."""
VOID = ",".join(map(str, VOID_COLOR))

_OWN_NAME = re.compile(r"\d{4}_\d{6}")
"""What VOC calls its own images."""


class ClassList(NamedTuple):
    """The classes of a folder; number k of a class map is the k-th of them, from 1."""

    categories: tuple[Category, ...]
    colors: Mapping[Color, int]
    """Color -> number, where class maps are painted."""
    only_names: bool = False
    """The numbers of the class maps are not known to mean anything: names in the XML count."""


def read_classes(source: Path) -> ClassList:
    """By the first of the lists that is there.

    Raises:
        UserError: the list cannot be read.
    """
    for name, read in (("classes.txt", _own), ("class_names.txt", _of_labelme), ("labelmap.txt", _of_cvat)):
        if (source / name).is_file():
            lines = [line.strip() for line in read_text(source / name).splitlines() if line.strip()]
            try:
                return read(lines)
            except (ValueError, IndexError):
                raise UserError(f"{source / name}: {read.__doc__}") from None
    return _unlisted(source)


def _own(lines: list[str]) -> ClassList:
    """each line must be an id and a name"""
    rows = [line.split(" ", 1) for line in lines]
    return ClassList(tuple(Category(int(number), name.strip()) for number, name in rows), PALETTE)


def _of_labelme(lines: list[str]) -> ClassList:
    """each line must be a name, that of the background first"""
    names = [name for name in lines if name != "__ignore__"][1:]
    return ClassList(named_categories(names), PALETTE)


def _of_cvat(lines: list[str]) -> ClassList:
    """each line must be name:red,green,blue:parts:actions"""
    rows = [line.split(":") for line in lines if not line.startswith("#")]
    rows = [row for row in rows if row[0] != "background" and row[1] != VOID]
    colors = {_color(row[1]): number for number, row in enumerate(rows, start=1)} | {_color(VOID): 255}
    return ClassList(named_categories(row[0] for row in rows), colors)


def _color(text: str) -> Color:
    red, green, blue = (int(part) for part in text.split(","))
    return red, green, blue


def _unlisted(source: Path) -> ClassList:
    names: dict[str, None] = {}
    for path in files_below(source / "Annotations", "*.xml"):
        try:
            names |= {name: None for name, _ in objects_of(path) if name}
        except UserError:
            continue  # told where its image is read
    if names and not set(names) <= set(CLASSES):
        return ClassList(named_categories(sorted(names)), PALETTE, only_names=True)
    maps = [path.stem for path in files_below(source / "SegmentationObject", "*.png")]
    if names or all(_OWN_NAME.fullmatch(stem) for stem in maps):
        return ClassList(named_categories(CLASSES), PALETTE)
    raise UserError(
        f"{source} does not say what its classes are called: add classes.txt, one line for each number of the class "
        "maps: 1 cat"
    )


def objects_of(path: Path) -> list[tuple[str, bool]]:
    """(class name, crowd) of each object of an annotation file."""
    entries = parse_xml(path).findall("object")
    return [(entry.findtext("name") or "", entry.findtext("crowd") == "1") for entry in entries]


def numbers_of_colors(pixels: NDArray[np.uint8], colors: Mapping[Color, int], path: Path) -> NDArray[np.int32]:
    """(H, W, 3) painted map -> (H, W) numbers; black is 0.

    Raises:
        UserError: a color stands for nothing.
    """
    found, place = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    numbers = []
    for red, green, blue in found.tolist():
        number = 0 if red == green == blue == 0 else colors.get((red, green, blue))
        if number is None:
            raise UserError(f"{path}: the color {red}, {green}, {blue} stands for no class or object: list it")
        numbers.append(number)
    return np.array(numbers, np.int32)[place.reshape(pixels.shape[:2])]


def palette() -> list[int]:
    """VOC's 256 colors, flat R, G, B: the bits of the index dealt to the channels, highest first."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return [int(v) for v in colors.reshape(-1)]


def labelmap(categories: Sequence[Category]) -> str:
    """CVAT's and Datumaro's list of the classes and their colors."""
    colors = np.array(palette()).reshape(-1, 3)[1:].tolist()
    rows = [f"{c.name.replace(':', ' ')}:{r},{g},{b}::" for c, (r, g, b) in zip(categories, colors, strict=False)]
    if all(c.name != "ignored" for c in categories):
        rows.append(f"ignored:{VOID}::")  # without it Datumaro refuses every map that has a crowd region
    return "\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *rows, ""])


PALETTE: Mapping[Color, int] = {
    (int(r), int(g), int(b)): i for i, (r, g, b) in enumerate(np.array(palette()).reshape(-1, 3).tolist())
}
"""VOC's color -> the number that it stands for."""
