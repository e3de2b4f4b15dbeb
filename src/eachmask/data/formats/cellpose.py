"""Cellpose: ``x_masks.tif`` or ``x_cp_masks.png``, one number per object, beside the image ``x.tif``.

``x_seg.npy`` is pickled, which runs whatever its maker wrote into it: it is never opened, and said to be left out where
there is no other file.
"""

from __future__ import annotations

from pathlib import Path

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.class_table import read_table, write_table
from eachmask.data.formats.drawn import split_of
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import encode_label_map, label_map_suffix
from eachmask.data.formats.map_objects import read_maps
from eachmask.data.images.files import copy_image, files_below, find_image
from eachmask.data.problems import Problem
from eachmask.data.targets import masks_of
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError

_ENDS = ("_cp_masks", "_masks")
_PICKLED = "_seg.npy"


def read_cellpose(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read the maps below a folder; one whose image is not there is told.

    Raises:
        UserError: there is none.
    """
    maps = _maps(source)
    known = None if images is None else ImageFolder(images)
    result, table = DatasetBuilder(read_table(source).categories), read_table(source)
    images_of: dict[Path, Path] = {}
    for stem, file in maps.items():
        image = find_image(stem.parent, stem.name) or (known.of_stem(stem.name) if known else None)
        if image is None:
            result.report(Problem(str(file), "", "it has no image", "put the image there", "missing"))
            continue
        images_of[file] = image
    stems = {file: stem for stem, file in maps.items()}
    for file, masks in read_maps(progress("reading", list(images_of)), source, result):
        split, name = split_of(stems[file].with_name(images_of[file].name), source)
        result.add(split, name, images_of[file], table.targets(split, name, masks))
    for path in files_below(source, f"*{_PICKLED}"):
        if path.with_name(path.name.removesuffix(_PICKLED)) not in maps:
            what, remedy = "it is pickled, and pickles are never opened", "save the masks from Cellpose as TIFF or PNG"
            result.report(Problem(str(path), "", what, remedy, "file"))
    if not maps and not result.problems:
        raise UserError(f"{source} holds no x_masks.tif beside an image x.tif")
    return result.build()


def write_cellpose(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/NAME_masks.png (TIFF beyond 65,535 objects) beside the images, and objects.csv."""
    covered = 0
    for split, image in progress("writing", list(data.images())):
        copy_image(image, target / split / image.name)
        masks = masks_of(image.targets)
        path = target / split / f"{image.stem}_masks{label_map_suffix(len(masks))}"
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded, missing = encode_label_map(masks)
        path.write_bytes(encoded)
        covered += missing
    write_table(target, data)
    return [f"{covered} objects that others cover altogether"] if covered else []


def _maps(source: Path) -> dict[Path, Path]:
    """Image without suffix -> its map."""
    found: dict[Path, Path] = {}
    for path in files_below(source, "*_masks.*"):
        end = next(end for end in _ENDS if path.stem.endswith(end)) if path.stem.endswith(_ENDS) else ""
        if end and path.suffix.lower() in (".tif", ".tiff", ".png"):
            found.setdefault(path.with_name(path.stem.removesuffix(end)), path)
    return found


def _looks_like(source: Path) -> bool:
    stems = [*_maps(source), *(p.with_name(p.name.removesuffix(_PICKLED)) for p in files_below(source, f"*{_PICKLED}"))]
    return source.is_dir() and any(find_image(stem.parent, stem.name) for stem in stems)


FORMAT = Format("cellpose", _looks_like, "x_masks.tif beside x.tif", read_cellpose, write_cellpose, takes_images=True)
