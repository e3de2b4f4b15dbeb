"""CVPPP leaves: ``plant001_rgb.png``, ``plant001_label.png`` (one number per leaf), ``plant001_fg.png`` side by side.

The layout of the leaf segmentation and counting challenges (Scharr et al., MVA 2016), in folders ``A1`` ... or
``train``, ``val``. Tables of counts (``plant001_rgb.png, 12``) and foregrounds are checked against the label maps,
where they are. What class an object is of says ``objects.csv`` (ours); without it, it is a leaf.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.class_table import ClassTable, read_table, write_table
from eachmask.data.formats.drawn import split_of
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import encode_label_map, label_map_suffix, numbers_in
from eachmask.data.formats.map_objects import read_maps
from eachmask.data.images.files import copy_image, files_below, find_image
from eachmask.data.problems import Problem
from eachmask.data.targets import masks_of
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import Category, Masks, UserError

LEAF = Category(1, "leaf")
_MAPS = (".png", ".tif")


def read_cvppp(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read the label maps below a folder; what has no image, and images without a map, are told.

    Raises:
        UserError: there is no label map.
    """
    table = read_table(source) if (source / "objects.csv").is_file() else ClassTable((LEAF,))
    known = None if images is None else ImageFolder(images)
    result, found = DatasetBuilder(table.categories), {}
    maps = _maps(source)
    for stem, file in maps.items():
        image = find_image(stem.parent, f"{stem.name}_rgb")
        if image is None and known is not None:
            place = stem.relative_to(source).as_posix()
            image = known.of_stem(f"{place}_rgb") or known.of_stem(place)
        if image is None:
            what = f"it has no image {stem.name}_rgb.png"
            result.report(Problem(str(file), "", what, "put the image there", "missing"))
            continue
        found[file] = stem, image
    counts = dict(_counts(source))
    for file, masks in read_maps(progress("reading", list(found)), source, result):
        stem, image = found[file]
        split, name = split_of(stem.with_name(stem.name + image.suffix), source)
        targets = table.targets(split, name, masks)
        result.add(split, name, image, targets)
        for problem in _contradictions(stem, file, targets.masks, counts.get(stem)):
            result.report(problem)
    for path in files_below(source, "*_rgb.*"):
        if path.with_name(path.stem.removesuffix("_rgb")) not in maps:
            what, remedy = "it has no label map", "number its leaves, or predict them"
            result.report(Problem(str(path), "", what, remedy, "image", "warning"))
    if not maps:
        raise UserError(f"{source} holds no plant_label.png beside an image plant_rgb.png")
    return result.build()


def write_cvppp(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write images, label maps and foregrounds below SPLIT/, a table of counts for each split, and objects.csv."""
    covered = 0
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in data.splits}
    for split, image in progress("writing", list(data.images())):
        path = target / split / image.name
        copy_image(image, path.with_name(image_name(path.name)))
        masks = masks_of(image.targets)
        covered += write_maps(path.with_suffix(""), masks)
        rows[split].append((image_name(path.name), len(masks)))
    for split, own in rows.items():
        write_counts(target / split / f"{Path(split).name}.csv", own)
    write_table(target, data)
    return [f"{covered} objects that others cover altogether"] if covered else []


def image_name(name: str) -> str:
    """What CVPPP calls an image ``plant.png``: ``plant_rgb.png``."""
    return f"{Path(name).stem}_rgb{Path(name).suffix}"


def write_maps(stem: Path, masks: Masks) -> int:
    """Write ``STEM_label.png`` and ``STEM_fg.png``; how many objects others cover altogether."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    encoded, covered = encode_label_map(masks)
    stem.with_name(f"{stem.name}_label{label_map_suffix(len(masks))}").write_bytes(encoded)
    foreground = np.where(masks.to_label_map() > 0, 255, 0).astype(np.uint8)
    stem.with_name(f"{stem.name}_fg.png").write_bytes(png(foreground))
    return covered


def write_counts(path: Path, rows: list[tuple[str, int]]) -> None:
    """Write a table of counts, without a head, as the challenge has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _maps(source: Path) -> dict[Path, Path]:
    """Image without ``_rgb`` and suffix -> its map."""
    paths = [path for path in files_below(source, "*_label.*") if path.suffix.lower() in _MAPS]
    return {path.with_name(path.stem.removesuffix("_label")): path for path in paths}


def _counts(source: Path) -> Iterator[tuple[Path, int]]:
    """Image without ``_rgb`` and suffix, and its number of leaves, of all tables that are there."""
    for path in files_below(source, "*.csv"):
        if path.name == "objects.csv":
            continue
        for row in csv.reader(io.StringIO(read_text(path), newline="")):
            if len(row) > 1 and "_rgb" in row[0] and row[1].strip().isdecimal():
                name = Path(row[0].strip().replace("\\", "/")).name
                yield path.with_name(Path(name).stem.removesuffix("_rgb")), int(row[1])


def _contradictions(stem: Path, file: Path, masks: Masks | None, count: int | None) -> Iterator[Problem]:
    """Where a table or a foreground says something else than the map."""
    num = 0 if masks is None else len(masks)
    if count is not None and count != num:
        what = f"it has {num} leaves, and a table says {count}"
        yield Problem(str(file), "", what, "mend the one that is wrong; the map counts", "count", "warning")
    foreground = stem.with_name(f"{stem.name}_fg.png")
    if masks is None or not foreground.is_file():
        return
    try:
        said = numbers_in(foreground) > 0
    except UserError as error:
        yield Problem(str(foreground), "", str(error), "delete it; the map counts", "label map", "warning")
        return
    if said.shape != masks.size or (said != (masks.to_label_map() > 0)).any():
        what = f"it differs from what {file.name} has for leaves"
        yield Problem(str(foreground), "", what, "write it anew; the map counts", "label map", "warning")


def _looks_like(source: Path) -> bool:
    return source.is_dir() and any(find_image(stem.parent, f"{stem.name}_rgb") for stem in _maps(source))


FORMAT = Format("cvppp", _looks_like, "x_label.png beside x_rgb.png", read_cvppp, write_cvppp, takes_images=True)
