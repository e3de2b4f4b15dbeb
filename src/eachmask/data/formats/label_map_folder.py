"""Label maps, one number per pixel: ``images/SPLIT/NAME.*`` and ``labels/SPLIT/NAME.png`` (8, 16 or 32 bits).

``masks/`` is read as well, and what :mod:`~eachmask.data.formats.map_layouts` knows. What class an object is of says
``objects.csv`` (:mod:`~eachmask.data.formats.class_table`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.class_table import read_table, write_table
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import write_label_map
from eachmask.data.formats.map_layouts import has_layout, pairs_of_layout
from eachmask.data.formats.map_objects import read_maps
from eachmask.data.formats.painted import painted
from eachmask.data.formats.paired import folder_in, has_pair, pairs_below, roots_of
from eachmask.data.images.files import copy_image
from eachmask.data.targets import masks_of
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress

FOLDERS = ("labels", "masks")


def read_label_map_folder(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read images/ (or another folder ``images``) and labels/ (or masks/), or these two of each split.

    Raises:
        UserError: there is no such pair of folders.
    """
    table = read_table(source)
    known = not _is_usual(source) and has_layout(source)
    pairs, problems = pairs_of_layout(source) if known else pairs_below(source, FOLDERS, images, "label map")
    result = DatasetBuilder(table.categories)
    result.problems += problems
    found = {pair.file: pair for pair in pairs}
    for file, masks in read_maps(progress("reading", list(found)), folder_in(source, FOLDERS) or source, result):
        pair = found[file]
        result.add(pair.split, pair.name, pair.image, table.targets(pair.split, pair.name, masks))
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
            path.write_bytes(png(painted(masks).astype(np.uint16)))
        else:
            write_label_map(path, masks)
    write_table(target, data)
    return []


def _is_usual(source: Path) -> bool:
    return has_pair(source, FOLDERS) or bool(roots_of(source, FOLDERS))


FORMAT = Format(
    "label-maps",
    lambda source: _is_usual(source) or has_layout(source),
    "folders images and labels (or masks)",
    read_label_map_folder,
    write_label_map_folder,
    takes_images=True,
)
