"""Label maps, one number per pixel: ``images/SPLIT/NAME.*`` and ``labels/SPLIT/NAME.png`` (8, 16 or 32 bits).

``masks/`` is read as well. What class an object is of says ``objects.csv`` (:mod:`~eachmask.data.formats.class_table`).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.class_table import read_table, write_table
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import write_label_map
from eachmask.data.formats.map_objects import read_maps
from eachmask.data.formats.painted import painted
from eachmask.data.images.files import copy_image, image_files
from eachmask.data.problems import Problem
from eachmask.data.targets import masks_of
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError

_SUFFIXES = (".png", ".tif", ".tiff")


def read_label_map_folder(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read images/ (or another folder ``images``) and labels/ (or masks/).

    Raises:
        UserError: there is no such pair of folders.
    """
    table = read_table(source)
    labels = next((source / n for n in ("labels", "masks") if (source / n).is_dir()), None)
    images = images or source / "images"
    if labels is None or not images.is_dir():
        raise UserError(f"{source} must hold the folders images and labels (or masks) with equal file names")
    result = DatasetBuilder(table.categories)
    found: dict[Path, tuple[str, str, Path]] = {}
    for path in image_files(images):
        stem = path.relative_to(images).with_suffix("")
        file = _map_of(stem, labels, images)
        if file is None:
            result.report(Problem(str(path), "", f"there is no label map {labels / stem}.png", "add one", "image"))
            continue
        split, name = _split_of(file.relative_to(labels).with_suffix(path.suffix))
        found[file] = split, name, path
    maps = read_maps(progress("reading", list(found)), labels, result)
    for file, masks in maps:
        split, name, path = found[file]
        result.add(split, name, path, table.targets(split, name, masks))
    for file in image_files(labels):
        if file.suffix.lower() in _SUFFIXES and file not in found:
            what, remedy = "it has no image", "put the image there or delete the file"
            result.report(Problem(str(file), "", what, remedy, "missing"))
    return result.build()


def write_label_map_folder(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
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
    write_table(target, data)
    return []


def _map_of(stem: Path, labels: Path, images: Path) -> Path | None:
    """An image's map: of the same relative name, or, where the user names another folder of images, of the last."""
    exact = next((file for suffix in _SUFFIXES if (file := labels / f"{stem}{suffix}").is_file()), None)
    if exact is not None or images == labels.parent / "images":
        return exact
    return ImageFolder(labels).of_stem(stem.as_posix())


def _split_of(relative: Path) -> tuple[str, str]:
    """train/a/b.png -> (train, a/b.png); b.png -> (all, b.png)."""
    parts = relative.parts
    return (parts[0], Path(*parts[1:]).as_posix()) if len(parts) > 1 else ("all", relative.as_posix())


def _looks_like(source: Path) -> bool:
    return (source / "images").is_dir() and any((source / name).is_dir() for name in ("labels", "masks"))


FORMAT = Format(
    "label-maps",
    _looks_like,
    "folders images and labels (or masks)",
    read_label_map_folder,
    write_label_map_folder,
    takes_images=True,
)
