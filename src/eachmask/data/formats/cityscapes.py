"""Cityscapes (Cordts et al., arXiv 1604.01685): instanceIds PNGs and polygon JSON per image.

A pixel of ``gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png`` is ``id * 1000 + n`` in the n-th object of class id,
and plain ``id`` where objects of that class cannot be told apart (a group: our crowd) or the class has no objects.
``_gtFine_polygons.json`` lists outlines from back to front; it is read where there are no instanceIds.
``gtFine/classes.txt`` (ours) lists ids and names where they are not Cityscapes' own; CVAT and datumaro put
``label_colors.txt`` beside gtFine instead, whose n-th line, from 0, names the class n.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.color_maps import TABLES, colors_in
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.formats.segmentations import LEAVES, rasterize_readable
from eachmask.data.images.files import copy_image, files_below, find_image
from eachmask.data.problems import Problem
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import instances_of, masks_of
from eachmask.files.json_text import read_json_file
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import RLE, Category, UserError

CLASSES = (
    Category(24, "person", "human"), Category(25, "rider", "human"), Category(26, "car", "vehicle"),
    Category(27, "truck", "vehicle"), Category(28, "bus", "vehicle"), Category(29, "caravan", "vehicle"),
    Category(30, "trailer", "vehicle"), Category(31, "train", "vehicle"), Category(32, "motorcycle", "vehicle"),
    Category(33, "bicycle", "vehicle"),
)  # fmt: skip
"""The classes that have objects."""
FIRST_OBJECT = 24
"""Cityscapes' lower ids are those of scenery, which has no objects."""
_THINGS_AND_STUFF = "panoptic_classes.txt"
_MAX_OBJECTS = 999
_CITY = "city"
_NOT_DRAWN = ("license plate",)
"""Outlines that hide nothing: their id is below 0, and Cityscapes' own tools leave them out of instanceIds."""


def read_cityscapes(source: Path, progress: Progress = no_progress) -> Dataset:
    """Read gtFine and leftImg8bit.

    Raises:
        UserError: there is no gtFine folder.
    """
    if not (source / "gtFine").is_dir():
        raise UserError(f"{source} has no folder gtFine")
    result = DatasetBuilder(_read_categories(source))
    bases = source / "leftImg8bit", source / "imgsFine" / "leftImg8bit"  # the second is CVAT's
    files: dict[str, Path] = {}
    for base, path in _files(source / "gtFine"):
        files.setdefault(base, path)
    for base, path in progress("reading", sorted(files.items())):
        relative = Path(base).relative_to(source / "gtFine")
        split = relative.parts[0] if len(relative.parts) > 1 else "all"
        try:
            masks, labels, crowd = _read_file(path, result)
        except UserError as error:
            result.report(Problem(str(path), "", str(error), "restore the file", "file"))
            continue
        folder = next((own for own in bases if own.is_dir()), bases[0]) / relative.parent
        image = find_image(folder, f"{relative.name}_leftImg8bit") or folder / f"{relative.name}_leftImg8bit.png"
        inner = Path(*relative.parts[1:]) if len(relative.parts) > 1 else relative
        if inner.parts[0] == _CITY and len(inner.parts) > 1:
            inner = Path(*inner.parts[1:])
        targets = instances_of(masks, labels, crowd, result.categories)
        result.add(split, f"{inner.as_posix()}{image.suffix}", image, targets)
    return result.build()


def write_cityscapes(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write leftImg8bit, and gtFine with instanceIds (16-bit PNG), labelIds and polygons.

    Class ids that leave no room for three digits of objects (above 64) are numbered anew from 1; with more than
    64 classes the instanceIds are 32-bit TIFF. Overlaps: the smaller object keeps the pixel.
    """
    ids, notes = _class_ids(data.categories)
    wide = max(ids, default=0) > 64
    lost = 0
    for split, image in progress("writing", list(data.images())):
        name = image.stem if "/" in image.stem else f"{_CITY}/{image.stem}"
        suffix = Path(image.name).suffix
        copy_image(image, target / "leftImg8bit" / split / f"{name}_leftImg8bit{suffix}")
        base = target / "gtFine" / split / f"{name}_gtFine"
        base.parent.mkdir(parents=True, exist_ok=True)
        pixels, missing = instance_ids(image, ids)
        lost += missing
        kind, ending = (np.int32, ".tif") if wide else (np.uint16, ".png")
        data_bytes = bytes(cv2.imencode(ending, pixels.astype(kind))[1])
        Path(f"{base}_instanceIds{ending}").write_bytes(data_bytes)
        plain = np.where(pixels >= 1000, pixels // 1000, pixels).astype(np.uint8 if max(ids, default=0) < 256 else kind)
        Path(f"{base}_labelIds.png").write_bytes(png(plain.astype(np.uint16)))
        Path(f"{base}_polygons.json").write_text(json.dumps(_outlines(image, data.categories)), encoding="utf-8")
    path = target / "gtFine" / "classes.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i} {c.name}\n" for i, c in zip(ids, data.categories, strict=True)), encoding="utf-8")
    if wide:
        notes.append("the class ids need 32 bits: instanceIds are TIFF, which Cityscapes' own tools do not read")
    if lost:
        notes.append(f"{lost} objects are beyond the 999 per class and image that the format numbers, and are missing")
    return notes


def instance_ids(image: AnnotatedImage, ids: list[int]) -> tuple[NDArray[np.int32], int]:
    """(H, W) instanceIds of an image, and how many objects found no number."""
    targets = image.targets
    masks = masks_of(targets)
    count = [0] * len(ids)
    value = np.zeros(len(masks), np.int64)
    for i, (label, crowd) in enumerate(zip(targets.labels.tolist(), targets.crowd.tolist(), strict=True)):
        if crowd:
            value[i] = ids[label]
        elif count[label] <= _MAX_OBJECTS:
            value[i] = ids[label] * 1000 + count[label]  # the first has number 0
            count[label] += 1
    from eachmask.data.formats.painted import painted

    pixels = np.concatenate([[0], value])[painted(masks)].astype(np.int32)
    return pixels, int((value == 0).sum())


def _class_ids(categories: tuple[Category, ...]) -> tuple[list[int], list[str]]:
    ids = [category.id for category in categories]
    if all(1 <= i <= 64 for i in ids):
        return ids, []
    return list(range(1, len(ids) + 1)), ["class ids above 64 or below 1 were numbered anew, see gtFine/classes.txt"]


def _outlines(image: AnnotatedImage, categories: tuple[Category, ...]) -> dict[str, Any]:
    """The polygons file, large objects at the back; holes are not in it."""
    targets = image.targets
    (height, width), masks = targets.image_size, masks_of(targets)
    polygons, labels, crowd = masks.to_polygons(), targets.labels.tolist(), targets.crowd.tolist()
    objects = []
    for i in np.argsort(-masks.area(), kind="stable"):
        name = categories[labels[i]].name + ("group" if crowd[i] else "")
        objects += [{"label": name, "polygon": ring.astype(int).tolist()} for ring in polygons.outers[i]]
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


# Reading ------------------------------------------------------------------------------------------


def _read_categories(source: Path) -> tuple[Category, ...]:
    path = source / "gtFine" / "classes.txt"
    if not path.is_file() and any((source / name).is_file() for name in TABLES):
        names = enumerate(colors_in(source))
        return tuple(Category(number, name) for number, name in names if number)  # 0 is background
    if not path.is_file():
        return CLASSES
    try:
        rows = [line.split(" ", 1) for line in read_text(path).splitlines() if line.strip()]
        return tuple(Category(int(number), name.strip()) for number, name in rows)
    except ValueError:
        raise UserError(f"{path}: each line must be an id and a name") from None


def _read_file(path: Path, result: DatasetBuilder) -> tuple[RLE, list[int], list[bool]]:
    if path.suffix == ".json":
        return _read_polygons(path, result)
    pixels = numbers_in(path).astype(np.int64)
    masks = RLE.from_label_map(pixels)
    label_of = {category.id: i for i, category in enumerate(result.categories)}
    scenery = range(FIRST_OBJECT) if result.categories == CLASSES else ()
    keep, labels, crowd, unknown = [], [], [], set[int]()
    for i, value in enumerate(int(v) for v in np.unique(pixels) if v > 0):
        number = value // 1000 if value >= 1000 else value
        if number in label_of:
            keep.append(i)
            labels.append(label_of[number])
            crowd.append(value < 1000)
        elif value not in scenery:
            unknown.add(number)
    if unknown:
        what = f"its objects of the numbers {', '.join(map(str, sorted(unknown)))} have no class"
        remedy = "they are left out; list ids and names in gtFine/classes.txt"
        result.report(Problem(str(path), "", what, remedy, "class", count=len(unknown)))
    return masks[keep], labels, crowd


def _read_polygons(path: Path, result: DatasetBuilder) -> tuple[RLE, list[int], list[bool]]:
    """Outlines from back to front -> what is seen of each."""
    try:
        content = read_json_file(path)
        size = (int(content["imgHeight"]), int(content["imgWidth"]))
        rows = list(content["objects"])
    except (UserError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no Cityscapes polygon file") from None
    label_of = {category.name: i for i, category in enumerate(result.categories)}
    outlines, labels, crowd = [], [], []
    bad: dict[int, str] = {}
    for number, row in enumerate(rows, start=1):
        try:
            outline, name = np.asarray(row["polygon"], np.float64).ravel().tolist(), str(row["label"])
        except (KeyError, TypeError, ValueError) as error:
            outline, name = [], ""
            bad[number] = str(error)
        if name and (row.get("deleted") or (name in _NOT_DRAWN and name not in label_of)):
            outline = []
        plain = name.removesuffix("group")
        outlines.append({"segmentation": [outline]})
        labels.append(label_of.get(name, label_of.get(plain, -1)))
        crowd.append(name not in label_of and plain in label_of)
    ((_, drawn, mistakes),) = rasterize_readable([(path, outlines, size)])
    bad |= {i + 1: why for i, why in mistakes.unread.items()}
    for number, why in sorted(bad.items()):
        what = f"its outline cannot be read ({why})"
        result.report(Problem(str(path), f"object {number}", what, "draw it anew"))
    known = (i for i in mistakes.outside if labels[i] >= 0)  # the rest is scenery
    for i in known:
        result.report(Problem(str(path), f"object {i + 1}", *LEAVES))
    front = _front(drawn.masks)
    seen = RLE.from_label_map(front)
    numbers = np.flatnonzero(np.bincount(front.ravel(), minlength=1)[1:]).tolist()  # of those that are seen
    keep = [i for i, n in enumerate(numbers) if labels[n] >= 0]
    return seen[keep], [labels[numbers[i]] for i in keep], [crowd[numbers[i]] for i in keep]


def _front(masks: RLE) -> NDArray[np.int32]:
    """(H, W) label map in which the later mask hides the earlier."""
    last = len(masks)
    flipped = masks[np.arange(last)[::-1]].to_label_map()
    return np.where(flipped > 0, last + 1 - flipped, 0).astype(np.int32)


def _looks_like(source: Path) -> bool:
    """Label maps alone are another format, and so are those with a list of things and stuff."""
    folder = source / "gtFine"
    if (folder / _THINGS_AND_STUFF).is_file() and not (folder / "classes.txt").is_file():
        return False
    return folder.is_dir() and (any(_files(folder)) or not files_below(folder, "*_gtFine_label*Ids.png"))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path without what stands behind an image's name, file) of all files of objects, the best kind first."""
    for ending in ("instanceIds.png", "instanceIds.tif", "polygons.json"):
        for path in files_below(folder, f"*_gtFine_{ending}"):
            yield str(path).removesuffix(f"_gtFine_{ending}"), path


FORMAT = Format("cityscapes", _looks_like, "a folder gtFine", read_cityscapes, write_cityscapes)
