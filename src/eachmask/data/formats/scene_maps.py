"""Label maps in the layouts of well-known data sets: what a value or a color means, and where files lie.

Each layout's file says where an image and its map are and what the values mean; reading, writing and what is wrong is
here. ``classes.txt``, a name per line, goes before the classes that a layout is known for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import classes_in
from eachmask.data.formats.paired import Pair, read_pairs
from eachmask.data.image_files import ImageView
from eachmask.data.images.files import copy_image
from eachmask.data.problems import Problem
from eachmask.data.targets import named_categories
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import Category, SemanticMap, UserError

NAMES = "classes.txt"
Color = tuple[int, int, int]
IGNORE = 255


@dataclass(frozen=True)
class Coding:
    """What pixels mean."""

    names: tuple[str, ...]
    """Of the classes, label by label."""
    values: Mapping[int, int]
    """Value in a map -> label; all others do not count."""
    colors: Mapping[Color, int] | None = None
    """Color in a painted map -> label; all others do not count. Where values are known too, files that have colors and
    no numbers are painted."""
    void: frozenset[int | Color] = frozenset({IGNORE})
    """Values and colors that are known not to count; of others the doctor tells."""

    @staticmethod
    def counted(names: Sequence[str], first: int = 0) -> Coding:
        """The k-th class has the value ``first + k``; what is below does not count."""
        values = {first + k: k for k in range(len(names))}
        return Coding(tuple(names), values, void=frozenset({IGNORE, *range(first)}))


@dataclass(frozen=True)
class Layout:
    """One data set's way."""

    name: str
    marks: str
    looks_like: Callable[[Path], bool]
    find: Callable[[Path], tuple[list[Pair], list[Problem]]]
    """Folder -> its images with their maps, and what is missing."""
    coding: Callable[[Path], Coding]
    place: Callable[[str, str], tuple[str, str]]
    """(split, stem) -> where the image, without its suffix, and the map are written, relative to the folder."""
    first: int = 0
    """Value of the first class in maps that are written."""
    names: str = NAMES
    """File of the classes' names."""
    flat: bool = False
    """Images of all splits lie in one folder: what two of them share gets the split's name before its own."""
    finish: Callable[[Path, Mapping[str, Sequence[str]]], None] = lambda target, stems: None
    """What else is written: lists of the splits, from the names of their images without suffixes."""

    def format(self) -> Format:
        """As every command takes it."""
        read, write = partial(_read, self), partial(_write, self)
        return Format(self.name, self.looks_like, self.marks, read, write, target=SemanticMap)


def coded_map(file: Path, categories: tuple[Category, ...], entry: Mapping[str, Any], coding: Coding) -> SemanticMap:
    """One map.

    Raises:
        UserError: it cannot be read.
    """
    colors = _colors_for(file, coding)
    labels = _numbered(file, coding.values) if colors is None else _painted(file, colors)
    return SemanticMap(torch.from_numpy(labels), categories, IGNORE)


def strangers(file: Path, entry: Mapping[str, Any], coding: Coding) -> str:
    """The values or colors of a map that are neither of a class nor known not to count.

    Raises:
        UserError: it cannot be read.
    """
    colors = _colors_for(file, coding)
    values, counts = np.unique(classes_in(file) if colors is None else _packed(file), return_counts=True)
    kinds = [*coding.values] if colors is None else [_number(color) for color in colors]
    void = [_number(each) if isinstance(each, tuple) else each for each in coding.void]
    strange = ~np.isin(values, [*kinds, *void])
    if not strange.any():
        return ""
    most = values[strange][np.argsort(-counts[strange], kind="stable")][:3].tolist()
    shown = most if colors is None else [(value >> 16, value >> 8 & 255, value & 255) for value in most]
    kind, share = "values" if colors is None else "colors", counts[strange].sum() / counts.sum()
    listed = ", ".join(map(str, shown))
    return f"{share:.1%} of its pixels have {kind} that are no class ({listed} ...) and do not count"


def named_in(file: Path) -> list[str]:
    """The lines of a list of names; () where there is none."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()] if file.is_file() else []


def _numbered(file: Path, values: Mapping[int, int]) -> NDArray[np.int64]:
    numbers = classes_in(file)
    lookup = np.full(max(int(numbers.max(initial=0)), *values) + 1, IGNORE, np.int64)
    lookup[list(values)] = list(values.values())
    return np.asarray(lookup[numbers])


def _painted(file: Path, colors: Mapping[Color, int]) -> NDArray[np.int64]:
    """Colors become one number each, which is looked up among the sorted ones."""
    packed, keys = _packed(file), np.array([_number(color) for color in colors], np.int64)
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], packed).clip(max=len(keys) - 1)
    labels = np.array(list(colors.values()), np.int64)[order][place]
    return np.where(keys[order][place] == packed, labels, IGNORE)


def _packed(file: Path) -> NDArray[np.int64]:
    """(H, W) a number for each color of an image."""
    data = np.fromfile(file, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise UserError(f"{file} is not an image that can be decoded")
    return np.asarray((image.astype(np.int64) << np.array([16, 8, 0])).sum(-1))


def _number(color: Color) -> int:
    red, green, blue = color
    return (red << 16) + (green << 8) + blue


def _colors_for(file: Path, coding: Coding) -> Mapping[Color, int] | None:
    """None where the file has numbers, be it with a palette or in three equal channels."""
    if coding.colors is None or not coding.values:
        return coding.colors
    try:
        with Image.open(file) as image:
            has_colors = image.mode in ("RGB", "RGBA")
    except (OSError, ValueError):
        return None  # whoever reads it says why
    grays = [_number((value,) * 3) for value in (*coding.values, IGNORE)]
    return coding.colors if has_colors and not np.isin(_packed(file), grays).all() else None


def _read(layout: Layout, source: Path, progress: Progress = no_progress) -> Dataset[FileSplit[SemanticMap]]:
    own = named_in(source / layout.names)
    coding = layout.coding(source)
    if own and coding.colors is None:
        coding = Coding.counted(own, layout.first)
    if len(coding.names) > IGNORE:
        raise UserError(f"{source} names {len(coding.names)} classes: maps of 8 bits have room for {IGNORE}")
    pairs, problems = layout.find(source)
    categories, read = named_categories(coding.names), partial(coded_map, coding=coding)
    return read_pairs(pairs, categories, read, problems, partial(strangers, coding=coding))


def _write(
    layout: Layout, target: Path, data: Dataset[FileSplit[SemanticMap]], progress: Progress = no_progress
) -> list[str]:
    names = [category.name for category in data.categories]
    if layout.first + len(names) > IGNORE:
        raise UserError(f"{len(names)} classes are too many for maps of 8 bits: --to class-maps writes 16")
    stems = stems_of(data, layout.flat)
    for split, images in data.splits.items():
        for i in progress(f"writing {split}", range(len(images))):
            view = ImageView(images, i)
            image, file = layout.place(split, stems[split][i])
            copy_image(view, target / f"{image}{Path(view.name).suffix}")
            seen = view.targets
            values = torch.where(seen.labels == seen.ignore, IGNORE, seen.labels.long() + layout.first).numpy()
            if layout.first:
                values[values == IGNORE] = 0
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(png(values.astype(np.uint8)))
    (target / layout.names).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    layout.finish(target, stems)
    return []


def stems_of(data: Dataset[FileSplit[SemanticMap]], flat: bool) -> dict[str, list[str]]:
    """Split -> names of its images without suffixes, see ``Layout.flat``."""
    own = {split: [ImageView(images, i).stem for i in range(len(images))] for split, images in data.splits.items()}
    count = Counter(chain.from_iterable(own.values()))
    shared = {stem for stem in count if flat and count[stem] > 1}
    return {split: [f"{split}__{stem}" if stem in shared else stem for stem in stems] for split, stems in own.items()}


def beside(
    images: Path, maps: Path, split: str, map_name: Callable[[str], str], what: str = "map"
) -> tuple[list[Pair], list[Problem]]:
    """The images of a folder and below, each with the map that is called after it.

    Args:
        map_name: relative path of the image without its suffix -> that of its map.
    """
    from eachmask.data.images.files import image_files

    pairs, problems = [], []
    for path in image_files(images):
        name = path.relative_to(images)
        file = maps / map_name(name.with_suffix("").as_posix())
        if file.is_file():
            pairs.append(Pair(split, name.as_posix(), path, file))
        else:
            problems.append(Problem(str(path), "", f"there is no {what} {file}", "add one", "image"))
    return pairs, problems
