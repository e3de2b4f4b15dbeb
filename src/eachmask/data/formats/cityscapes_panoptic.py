"""Cityscapes' things and stuff of every pixel (Cordts et al., arXiv 1604.01685): instanceIds PNGs as panoptic maps.

A pixel of ``gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png`` is ``id * 1000 + n`` in the n-th thing of class id, and
plain ``id`` in stuff, or in a group of things that cannot be told apart (a crowd). Read are the 19 classes that are
trained, or those of ``gtFine/panoptic_classes.txt`` (ours: ``id thing name`` or ``id stuff name`` a line); all other
pixels are void. Where there are no such files, what cityscapesScripts makes of them is read (``cityscapes_json.py``);
it is written beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats import cityscapes_json
from eachmask.data.formats.cityscapes_maps import pairs_of
from eachmask.data.formats.coco_panoptic import read_parts
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.formats.paired import read_pairs
from eachmask.data.formats.panoptic_png import THINGS_PER_CLASS, instance_ids
from eachmask.data.image_files import ImageView
from eachmask.data.images.files import copy_image, files_below
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import Category, PanopticMap, Segment, UserError
from eachmask.structures.class_lists import CITYSCAPES_CATEGORIES

NAMES = "panoptic_classes.txt"
ENDING = "_gtFine_instanceIds.png"
MAX_ID = 64
"""Larger ids leave no room for things in 16 bits."""


def read_cityscapes_panoptic(source: Path, progress: Progress = no_progress) -> Dataset[FileSplit[PanopticMap]]:
    """Read gtFine and leftImg8bit; maps are read when their samples are.

    Raises:
        UserError: the list of classes has a line that is none, or a JSON file is none.
    """
    if not _has_instance_ids(source):
        return read_parts(cityscapes_json.parts_of(file) for file in progress("reading", cityscapes_json.files(source)))
    files = progress("reading", sorted(files_below(source / "gtFine", f"*{ENDING}")))
    pairs, problems = pairs_of(source, files, ENDING)
    return read_pairs(pairs, _categories(source / "gtFine" / NAMES), panoptic_map, problems)


def panoptic_map(file: Path, categories: tuple[Category, ...], entry: Mapping[str, Any]) -> PanopticMap:
    """One map, whose segments have the file's values for ids.

    Raises:
        UserError: it is no label map.
    """
    return of_instance_ids(numbers_in(file).astype(np.int32), categories)


def of_instance_ids(values: NDArray[np.int32], categories: tuple[Category, ...]) -> PanopticMap:
    """(H, W) values of such a file -> the map."""
    label_of = {category.id: label for label, category in enumerate(categories)}
    segments = []
    for value in np.unique(values).tolist():
        label = label_of.get(value // THINGS_PER_CLASS if value >= THINGS_PER_CLASS else value)
        if label is not None and value:
            crowd = value < THINGS_PER_CLASS and categories[label].is_thing
            segments.append(Segment(value, label, crowd=crowd))
    known = np.isin(values, [segment.id for segment in segments])
    return PanopticMap(torch.from_numpy(np.where(known, values, 0)), tuple(segments), categories)


def write_cityscapes_panoptic(
    target: Path, data: Dataset[FileSplit[PanopticMap]], progress: Progress = no_progress
) -> list[str]:
    """Write leftImg8bit, and gtFine with instanceIds, the list of classes, and what cityscapesScripts makes of them.

    Class ids that leave no room for things (above 64) are numbered anew from 1.

    Raises:
        UserError: there are more than 64 classes, or more than 1000 things of a class in an image; or two images of a
            split have one name.
    """
    if len(data.categories) > MAX_ID:
        raise UserError(f"16 bits hold {MAX_ID} classes, not {len(data.categories)}: take --to coco-panoptic")
    renumbered = not all(0 < category.id <= MAX_ID for category in data.categories)
    numbers = [k if renumbered else category.id for k, category in enumerate(data.categories, start=1)]
    categories = tuple(replace(c, id=number) for c, number in zip(data.categories, numbers, strict=True))
    for split, images in data.splits.items():
        listed = cityscapes_json.Writer(target / "gtFine", split, categories)
        for i in progress(f"writing {split}", range(len(images))):
            view = ImageView(images, i)
            name = view.stem if "/" in view.stem else f"city/{view.stem}"
            copy_image(view, target / "leftImg8bit" / split / f"{name}_leftImg8bit{Path(view.name).suffix}")
            file = target / "gtFine" / split / f"{name}{ENDING}"
            file.parent.mkdir(parents=True, exist_ok=True)
            values = instance_ids(replace(view.targets, categories=categories))
            file.write_bytes(png(values))
            listed.add(file.name.removesuffix(ENDING), of_instance_ids(values.astype(np.int32), categories))
        listed.close()
    lines = [f"{c.id} {'thing' if c.is_thing else 'stuff'} {c.name}\n" for c in categories]
    (target / "gtFine").mkdir(parents=True, exist_ok=True)
    (target / "gtFine" / NAMES).write_text("".join(lines), encoding="utf-8")
    return ["the ids of the classes: they are numbered from 1"] if renumbered else []


def _has_instance_ids(source: Path) -> bool:
    return (source / "gtFine").is_dir() and any(files_below(source / "gtFine", f"*{ENDING}"))


def _categories(file: Path) -> tuple[Category, ...]:
    """Those of the list, else Cityscapes' own."""
    if not file.is_file():
        return CITYSCAPES_CATEGORIES
    found = []
    for line in filter(None, map(str.strip, read_text(file).splitlines())):
        number, kind, name = [*line.split(maxsplit=2), "", "", ""][:3]
        if not number.isdigit() or kind not in ("thing", "stuff") or not name:
            raise UserError(f"{file} has the line {line!r}: it must be a number, thing or stuff, and a name")
        found.append(Category(int(number), name, is_thing=kind == "thing"))
    return tuple(found)


FORMAT = Format(
    "cityscapes-panoptic",
    lambda source: _has_instance_ids(source) or bool(cityscapes_json.files(source)),
    "a folder gtFine with instanceIds of things and stuff, or cityscapes_panoptic_SPLIT.json",
    read_cityscapes_panoptic,
    write_cityscapes_panoptic,
    target=PanopticMap,
)
