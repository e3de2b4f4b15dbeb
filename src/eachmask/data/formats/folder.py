"""Folders of masks: label maps (one number per pixel), and one file per mask as in the Data Science Bowl 2018.

Neither says what class an object is of, or that it is a crowd region. ``objects.csv`` (ours) beside them does:
columns split, image, number, category_id, category, crowd. Programs that do not know it lose only that.

* Label maps: ``images/SPLIT/NAME.*`` and ``labels/SPLIT/NAME.png`` (8, 16 or 32 bits; ``masks/`` is read as well).
* One file per mask: ``SPLIT/ID/images/ID.*`` and ``SPLIT/ID/masks/*.png`` (without SPLIT it is read as well).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.dataset import (
    AnnotatedImage,
    AnnotatedSet,
    Problem,
    copy_image,
    image_files,
    image_size,
    instances_of,
    masks_of,
)
from eachmask.data.formats.label_maps import numbers_in, read_label_map, write_label_map
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import RLE, Category, Masks, UserError

_COLUMNS = ("split", "image", "number", "category_id", "category", "crowd")
_SUFFIXES = (".png", ".tif", ".tiff")


def painted(masks: Masks) -> NDArray[np.int32]:
    """(H, W) label map, i + 1 for mask i; where masks overlap the smaller one is in front, so that none vanishes."""
    rle = masks.to_rle()
    order = np.argsort(rle.area(), kind="stable")
    number = np.concatenate([[0], order + 1]).astype(np.int32)
    return number[rle[order].to_label_map()]


# Label maps ---------------------------------------------------------------------------------------


def read_label_map_folder(source: Path, progress: Progress = no_progress) -> AnnotatedSet:
    """Read images/ and labels/ (or masks/).

    Raises:
        UserError: there is no such pair of folders.
    """
    table = _read_table(source)
    labels = next((source / n for n in ("labels", "masks") if (source / n).is_dir()), None)
    images = source / "images"
    if labels is None or not images.is_dir():
        raise UserError(f"{source} must hold the folders images and labels (or masks) with equal file names")
    result = AnnotatedSet(table.categories, {})
    paths = image_files(images)
    for path in progress("reading", paths):
        split, name = _split_of(path.relative_to(images))
        stem = path.relative_to(images).with_suffix("")
        file = next((f for s in _SUFFIXES if (f := labels / f"{stem}{s}").is_file()), None)
        if file is None:
            result.problems.append(
                Problem(str(path), "", f"there is no label map {labels / stem}.png", "add one", "image")
            )
            continue
        try:
            masks = _masks_of_map(file)
        except UserError as error:
            result.problems.append(Problem(str(file), "", str(error), "save it anew as 16-bit PNG", "label map"))
            continue
        result.splits.setdefault(split, []).append(table.image(split, name, path, masks))
    stems = {path.relative_to(images).with_suffix("") for path in paths}
    for file in image_files(labels):
        if file.suffix in _SUFFIXES and file.relative_to(labels).with_suffix("") not in stems:
            what, remedy = "it has no image", "put the image there or delete the file"
            result.problems.append(Problem(str(file), "", what, remedy, "missing"))
    return result


def write_label_map_folder(target: Path, data: AnnotatedSet, progress: Progress = no_progress) -> list[str]:
    """Write images/SPLIT, labels/SPLIT (16-bit PNG; 32-bit TIFF beyond 65,535 objects) and objects.csv."""
    for split, image in progress("writing", list(data.images())):
        copy_image(image, target / "images" / split / image.name)
        masks = masks_of(image.targets)
        suffix = ".png" if len(masks) <= 65535 else ".tif"
        path = target / "labels" / split / f"{image.stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".png":
            path.write_bytes(bytes(cv2.imencode(".png", painted(masks).astype(np.uint16))[1]))
        else:
            write_label_map(path, masks)
    _write_table(target, data)
    return []


def _masks_of_map(file: Path) -> dict[int, RLE]:
    """Number in the map -> its mask."""
    masks = read_label_map(file).masks
    assert isinstance(masks, RLE)
    values = [int(v) for v in np.unique(numbers_in(file)) if v > 0]
    return {value: masks[i] for i, value in enumerate(values)} or {0: masks}


# One file per mask --------------------------------------------------------------------------------


def read_mask_files(source: Path, progress: Progress = no_progress) -> AnnotatedSet:
    """Read folders ID/images and ID/masks, at any depth.

    Raises:
        UserError: there is no such folder.
    """
    table = _read_table(source)
    result = AnnotatedSet(table.categories, {})
    for folder in progress("reading", sorted(p.parent for p in source.rglob("masks") if p.is_dir())):
        images = image_files(folder / "images") if (folder / "images").is_dir() else []
        if len(images) != 1:
            what = f"images/ holds {len(images)} images instead of one"
            result.problems.append(Problem(str(folder), "", what, "leave the one that the masks belong to", "image"))
            continue
        relative = folder.relative_to(source)
        split = relative.parts[0] if len(relative.parts) > 1 else "all"
        inner = Path(*relative.parts[1:]) if len(relative.parts) > 1 else relative
        name = f"{inner.as_posix()}{images[0].suffix}"
        masks = dict(_read_masks(folder / "masks", images[0], result.problems))
        if not masks:
            what, remedy = "neither the image nor a mask can be read", "restore the image or delete its folder"
            result.problems.append(Problem(str(images[0]), "", what, remedy, "image"))
            continue
        result.splits.setdefault(split, []).append(table.image(split, name, images[0], masks))
    if not result.splits:
        raise UserError(f"{source} holds no folders ID/images and ID/masks")
    return result


def write_mask_files(target: Path, data: AnnotatedSet, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/ID/images and SPLIT/ID/masks/00001.png ... (8-bit, 0 and 255), and objects.csv."""
    for split, image in progress("writing", list(data.images())):
        folder = target / split / image.stem
        copy_image(image, folder / "images" / Path(image.name).name)
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        height, width = image.targets.image_size
        bitmaps = masks_of(image.targets).to_bitmaps()
        for i, (crop, (x, y)) in enumerate(zip(bitmaps.crops, bitmaps.origins.tolist(), strict=True), start=1):
            canvas = np.zeros((height, width), np.uint8)
            canvas[y : y + crop.shape[0], x : x + crop.shape[1]] = crop * np.uint8(255)
            (folder / "masks" / f"{i:05d}.png").write_bytes(bytes(cv2.imencode(".png", canvas)[1]))
    _write_table(target, data)
    return []


def _read_masks(folder: Path, image: Path, problems: list[Problem]) -> Iterator[tuple[int, RLE]]:
    """Number of each mask and the mask; where there is none, 0 and none, if the size of the image is known."""
    try:
        size = image_size(image)
    except UserError:
        size = None  # told where the image is looked at
    files = image_files(folder)
    some = False
    for number, file in zip(_numbers(files), files, strict=True):
        pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED) if file.stat().st_size else None
        if pixels is None:
            problems.append(Problem(str(file), "", "it cannot be decoded", "draw the mask anew", "truncated"))
            continue
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            what = f"it is {pixels.shape[1]} x {pixels.shape[0]}, the image {size[1]} x {size[0]}"
            problems.append(Problem(str(file), "", what, "export the mask at the size of the image", "size"))
            continue
        inside = np.asarray(pixels[..., :3].any(2) if pixels.ndim == 3 else pixels > 0)[None]
        if not inside.any():
            problems.append(Problem(str(file), "", "the mask is empty", "delete the file", "empty"))
            continue
        some = True
        yield number, RLE.from_bitmaps(inside)
    if size is not None and not some:
        yield 0, RLE.empty((int(size[0]), int(size[1])))


def _numbers(files: Sequence[Path]) -> Iterator[int]:
    """The number that each file's name is; files of other names, or of one that was there, are numbered on."""
    own = [int(file.stem) if file.stem.isdecimal() and len(file.stem) < 7 else 0 for file in files]
    following, taken = count(max(own, default=0) + 1), {0}
    for number in own:
        yield next(following) if number in taken else number
        taken.add(number)


# The table of classes -----------------------------------------------------------------------------


@dataclass
class _Table:
    categories: tuple[Category, ...] = (Category(1, "object"),)
    rows: dict[tuple[str, str, int], tuple[int, bool]] = field(default_factory=dict)
    """(split, image, number) -> label, crowd."""

    def image(self, split: str, name: str, path: Path, masks: dict[int, RLE]) -> AnnotatedImage:
        joined = RLE.cat(list(masks.values()))
        known = [self.rows.get((split, name, n), (0, False)) for n, mask in masks.items() for _ in range(len(mask))]
        targets = instances_of(joined, [k for k, _ in known], [c for _, c in known], self.categories)
        return AnnotatedImage(name, path, targets)


def _read_table(source: Path) -> _Table:
    path = source / "objects.csv"
    if not path.is_file():
        return _Table()
    table = _Table(())
    label_of: dict[Category, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            for row in csv.DictReader(handle):
                category = Category(int(row["category_id"]), row["category"])
                label = label_of.setdefault(category, len(label_of))
                if row["image"]:  # rows without one only introduce a category
                    key = (row["split"], row["image"], int(row["number"]))
                    table.rows[key] = (label, row["crowd"] == "1")
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} must have the columns {', '.join(_COLUMNS)}") from None
    table.categories = tuple(label_of)
    return table


def _write_table(target: Path, data: AnnotatedSet) -> None:
    rows: list[Sequence[Any]] = [("", "", "", c.id, c.name, 0) for c in data.categories]
    for split, image in data.images():
        pairs = zip(image.targets.labels.tolist(), image.targets.crowd.tolist(), strict=True)
        for number, (label, crowd) in enumerate(pairs, start=1):
            category = data.categories[label]
            rows.append((split, image.name, number, category.id, category.name, int(crowd)))
    target.mkdir(parents=True, exist_ok=True)
    with open(target / "objects.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)


def _split_of(relative: Path) -> tuple[str, str]:
    """train/a/b.png -> (train, a/b.png); b.png -> (all, b.png)."""
    parts = relative.parts
    return (parts[0], Path(*parts[1:]).as_posix()) if len(parts) > 1 else ("all", relative.as_posix())
