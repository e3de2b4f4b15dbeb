"""Class maps: ``images/[SPLIT/]NAME.*``, ``classes/[SPLIT/]NAME.png`` with the class of each pixel, ``classes.txt``.

The pixel value is the class, from 0, a line of ``classes.txt`` each; 255 (65535 in maps of 16 bits where there are
more classes) is a pixel that does not count. Where no map has other values than 0 and 255 they are masks in black and
white, and white is the second class. Maps are gray or have a palette, as PASCAL VOC's do. ``labels/``,
``masks/`` and ``annotations/`` are read as well, where classes and not objects are asked for; and what Roboflow
exports: ``NAME_mask.png`` beside the images, and ``_classes.csv``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import black_and_white_in, classes_in, is_jpeg
from eachmask.data.formats.paired import Pair, copy_pairs, folder_in, has_pair, pairs_below, read_pairs, roots_of
from eachmask.data.images.files import image_files, matching
from eachmask.data.problems import Problem, lossy_masks
from eachmask.data.targets import named_categories
from eachmask.files.json_text import read_json_file
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import Category, SemanticMap, UserError

FOLDERS = ("classes", "semantic", "labels", "masks", "annotations")
NAMES = "classes.txt"
JSON_NAMES = "classes.json"
TABLE = "_classes.csv"
_MASK = "_mask"


def read_class_maps(
    source: Path, progress: Progress = no_progress, *, images: Path | None = None
) -> Dataset[FileSplit[SemanticMap]]:
    """Read images/ (or another folder ``images``) and classes/; maps are read when their samples are.

    Raises:
        UserError: there is no such pair of folders.
    """
    if tables_in(source):
        return _read_roboflow(source)
    pairs, problems = pairs_below(source, FOLDERS, images, "map of classes")
    above = images is not None and folder_in(source, FOLDERS) is None and (source.parent / NAMES).is_file()
    named = source.parent if above else source
    names = _names_in(named / NAMES)
    if (names is None or len(names) <= 2) and _are_black_and_white(pairs, progress):
        problems.extend(lossy_masks(source, sum(is_jpeg(pair.file) for pair in pairs)))
        return read_pairs(pairs, _two(names, named / NAMES, problems), black_and_white, problems)
    categories = _numbers(named / NAMES, pairs, problems, progress) if names is None else named_categories(names)
    return read_pairs(pairs, categories, class_map, problems)


def tables_in(source: Path) -> list[Path]:
    """Roboflow's tables of the classes of masks, one in each split's folder; its tables of tags are called alike."""
    found = [path for pattern in (TABLE, f"*/{TABLE}") for path in matching(source, pattern)]
    return [path for path in found if read_text(path).lstrip().startswith("Pixel Value")]


def _read_roboflow(source: Path) -> Dataset[FileSplit[SemanticMap]]:
    """Images and NAME_mask.png side by side."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    tables = tables_in(source)
    for folder in (table.parent for table in tables):
        for image in (path for path in image_files(folder) if not path.stem.endswith(_MASK)):
            mask = image.with_name(f"{image.stem}{_MASK}.png")
            if mask.is_file():
                pairs.append(Pair("all" if folder == source else folder.name, image.name, image, mask))
            else:
                problems.append(Problem(str(image), "", f"there is no {mask.name}", "add it", "image"))
    return read_pairs(pairs, _table_of_classes(tables[0]), class_map, problems)


def _table_of_classes(path: Path) -> tuple[Category, ...]:
    """Of a table with a pixel value and a name in each line.

    Raises:
        UserError: the values are not 0, 1, 2 ...
    """
    rows = [line.partition(",") for line in read_text(path).splitlines()[1:] if line.strip()]
    if [value.strip() for value, _, _ in rows] != [str(number) for number in range(len(rows))]:
        raise UserError(f"{path} must number its classes 0, 1, 2 ...")
    return named_categories(name.strip() for _, _, name in rows)


def class_map(file: Path, categories: tuple[Category, ...], entry: Mapping[str, Any]) -> SemanticMap:
    """One map.

    Raises:
        UserError: it cannot be read, or has a number that is no class.
    """
    try:
        return SemanticMap(torch.from_numpy(classes_in(file).astype(np.int64)), categories, ignore_of(len(categories)))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file}: {error}; name every class in {NAMES}, one per line") from None


def black_and_white(file: Path, categories: tuple[Category, ...], entry: Mapping[str, Any]) -> SemanticMap:
    """One mask: 0 is the first class, 255 the second.

    Raises:
        UserError: it cannot be read.
    """
    return SemanticMap(torch.from_numpy((black_and_white_in(file) > 0).astype(np.int64)), categories)


def ignore_of(num_classes: int) -> int:
    """The value of pixels that do not count."""
    return 255 if num_classes <= 255 else 65535


def write_class_maps(
    target: Path, data: Dataset[FileSplit[SemanticMap]], progress: Progress = no_progress
) -> list[str]:
    """Write images/SPLIT, classes/SPLIT (PNG of 8 bits, of 16 where there are more than 255 classes), classes.txt."""
    ignore = ignore_of(len(data.categories))
    for path, seen in copy_pairs(target, FOLDERS[0], data, progress):
        labels = torch.where(seen.labels == seen.ignore, ignore, seen.labels.long()).numpy()
        path.write_bytes(png(labels.astype(np.uint8 if ignore == 255 else np.uint16)))
    (target / NAMES).write_text("".join(f"{category.name}\n" for category in data.categories), encoding="utf-8")
    return []


def _names_in(file: Path) -> list[str] | None:
    """The lines of a list, or the names in the JSON file beside it; None without either."""
    if file.is_file():
        lines = read_text(file).splitlines()
        return [line.strip() for line in lines if line.strip()]
    listed = file.with_name(JSON_NAMES)
    return _listed(listed) if listed.is_file() else None


def _are_black_and_white(pairs: list[Pair], progress: Progress) -> bool:
    """Whether no map has other values than 0 and 255, and one has 255: as labels there would be nothing to learn."""
    white = False
    for pair in progress("looking at maps", pairs):
        try:
            values = set(np.unique(black_and_white_in(pair.file)).tolist())
        except UserError:
            continue  # told where it is read
        if not values <= {0, 255}:
            return False
        white |= 255 in values
    return white


def _two(names: list[str] | None, file: Path, problems: list[Problem]) -> tuple[Category, ...]:
    """Of black and white: a list may name both, or what is white alone."""
    if names is None:
        what = f"there is no {NAMES}, so black is called background and white foreground"
        problems.append(Problem(str(file.parent), "", what, f"name them in {NAMES}", "class name", "note"))
    return named_categories(
        names if names is not None and len(names) == 2 else ("background", *(names or ["foreground"]))
    )


def _numbers(file: Path, pairs: list[Pair], problems: list[Problem], progress: Progress) -> tuple[Category, ...]:
    """A number for each value up to the highest in the maps."""
    most = -1
    for pair in progress("counting classes", pairs):
        try:
            values = np.unique(classes_in(pair.file))
        except UserError as error:
            problems.append(Problem(str(pair.file), "", str(error), "save it anew as PNG", "label map"))
            continue
        most = max([most, *(int(value) for value in values if value not in (255, 65535))])
    what = f"there is no {NAMES}, so the {most + 1} classes are called by their numbers"
    problems.append(Problem(str(file.parent), "", what, f"name them in {NAMES}, one per line", "class name", "note"))
    return named_categories(str(label) for label in range(most + 1))


def _listed(file: Path) -> list[str]:
    """The names in a JSON file: a list, or the list under ``classes``."""
    content = read_json_file(file)
    names = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{file} must be a list of names, or have one under "classes"')
    return names


def _looks_like(source: Path) -> bool:
    return source.is_dir() and (has_pair(source, FOLDERS) or bool(roots_of(source, FOLDERS) or tables_in(source)))


FORMAT = Format(
    "class-maps",
    _looks_like,
    "folders images and classes, or _classes.csv beside masks",
    read_class_maps,
    write_class_maps,
    takes_images=True,
    target=SemanticMap,
)
