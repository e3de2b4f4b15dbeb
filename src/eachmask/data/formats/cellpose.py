"""Cellpose: ``x_seg.npy``, ``x_masks.tif`` or ``x_cp_masks.png``, one number per object, beside the image ``x.tif``.

``x_seg.npy`` is what Cellpose's window opens with an image and saves its corrections to: it goes before the others.
It is pickled, and read without running what a pickle may name (:mod:`~eachmask.files.pickled`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.class_table import read_table, write_table
from eachmask.data.formats.drawn import split_of
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import encode_label_map, label_map_suffix, numbers_in, whole
from eachmask.data.formats.map_objects import read_maps
from eachmask.data.images.files import copy_image, files_below, find_image
from eachmask.data.problems import Problem
from eachmask.data.targets import masks_of
from eachmask.files.pickled import read_pickled
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError

_ENDS = ("_cp_masks", "_masks")
_IMAGE = "_img"
"""May stand behind the image's name: ``000_img.png`` and ``000_masks.png``, as in Cellpose's own data."""
_PICKLED = "_seg.npy"
_AGAIN = "save the objects from Cellpose again"


def read_cellpose(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read the maps below a folder; one whose image is not there is told.

    Raises:
        UserError: there is none.
    """
    maps = _maps(source)
    known = ImageFolder(images or source)
    table = read_table(source)
    result = DatasetBuilder(table.categories)
    images_of: dict[Path, Path] = {}
    for stem, files in maps.items():
        image = _image_of(stem) or known.of_stem(stem.relative_to(source).as_posix())
        if image is None:
            result.report(Problem(str(files[0]), "", "it has no image", "put the image there", "missing"))
            continue
        images_of[stem] = image

    stem_of = {maps[stem][-1]: stem for stem in images_of}

    def numbers(file: Path) -> NDArray[Any]:
        return _numbers(maps[stem_of[file]], result)

    for file, masks in read_maps(progress("reading", list(stem_of)), source, result, numbers, _AGAIN):
        stem = stem_of[file]
        split, name = split_of(stem.with_name(images_of[stem].name), source)
        result.add(split, name, images_of[stem], table.targets(split, name, masks))
    if not maps and not result.problems:
        raise UserError(f"{source} holds no x_masks.tif or x_seg.npy beside an image x.tif")
    return result.build()


def write_cellpose(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/NAME_masks.png (TIFF beyond 65,535 objects), which Cellpose trains on, and NAME_seg.npy, which its
    window opens and saves corrections to, beside the images, and objects.csv."""
    covered = 0
    for split, image in progress("writing", list(data.images())):
        copy_image(image, target / split / image.name)
        masks = masks_of(image.targets)
        path = target / split / f"{image.stem}_masks{label_map_suffix(len(masks))}"
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded, missing = encode_label_map(masks)
        path.write_bytes(encoded)
        _write_seg(target / split / f"{image.stem}{_PICKLED}", masks.to_label_map(), Path(image.name).name)
        covered += missing
    write_table(target, data)
    return [f"{covered} objects that others cover altogether"] if covered else []


def _write_seg(path: Path, labels: NDArray[Any], image: str) -> None:
    """What Cellpose's ``masks_flows_to_seg`` writes, of objects that no network has drawn."""
    labels = labels.astype(np.uint16 if labels.max(initial=0) < 65535 else np.uint32)
    inside = np.pad(labels, 1)
    beside = [inside[:-2, 1:-1], inside[2:, 1:-1], inside[1:-1, :-2], inside[1:-1, 2:]]
    border = np.any([labels != other for other in beside], axis=0)
    content: dict[str, Any] = {
        "outlines": labels * border,
        "masks": labels,
        "chan_choose": [0, 0],
        "ismanual": np.ones(int(labels.max(initial=0)), bool),
        "filename": image,
        "flows": [[], [], [], [], [[]]],
        "diameter": np.nan,
    }
    with open(path, "wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def _numbers(files: list[Path], result: DatasetBuilder) -> NDArray[Any]:
    """The first that can be read; what could not be is reported where there is another."""
    for path in files[:-1]:
        try:
            return _numbers_in(path)
        except UserError as error:
            remedy = f"{files[-1].name} is taken; {_AGAIN}"
            result.report(Problem(str(path), "", str(error), remedy, "file", "warning"))
    return _numbers_in(files[-1])


def _numbers_in(path: Path) -> NDArray[Any]:
    if not path.name.endswith(_PICKLED):
        return numbers_in(path)
    content = read_pickled(path)
    labels = content.get("masks") if isinstance(content, dict) else content
    labels = whole(labels) if isinstance(labels, np.ndarray) else np.zeros(0, object)
    if labels.dtype.kind not in "ui":
        raise UserError(f"{path} holds no masks")
    labels = labels.reshape([n for n in labels.shape if n > 1] if labels.ndim > 2 else labels.shape)
    if labels.ndim != 2:
        raise UserError(f"{path} holds the masks of a stack, {labels.shape}: save its planes one by one")
    return np.asarray(labels + 1 if labels.min(initial=0) == -1 else labels)  # old files count from -1


def _maps(source: Path) -> dict[Path, list[Path]]:
    """Image without suffix -> its files, the best first."""
    found: dict[Path, list[Path]] = {}
    for path in files_below(source, f"*{_PICKLED}"):
        found[path.with_name(path.name.removesuffix(_PICKLED))] = [path]
    for path in files_below(source, "*_masks.*"):
        end = next(end for end in _ENDS if path.stem.endswith(end)) if path.stem.endswith(_ENDS) else ""
        if end and path.suffix.lower() in (".tif", ".tiff", ".png"):
            files = found.setdefault(path.with_name(path.stem.removesuffix(end)), [])
            if all(file.name.endswith(_PICKLED) for file in files):
                files.append(path)
    return found


def _image_of(stem: Path) -> Path | None:
    return find_image(stem.parent, stem.name) or find_image(stem.parent, stem.name + _IMAGE)


def _looks_like(source: Path) -> bool:
    return source.is_dir() and any(map(_image_of, _maps(source)))


_MARKS = "x_masks.tif or x_seg.npy beside x.tif"
FORMAT = Format("cellpose", _looks_like, _MARKS, read_cellpose, write_cellpose, takes_images=True)
