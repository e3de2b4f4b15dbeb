"""Mattes: ``images/[SPLIT/]NAME.*``, ``alpha/[SPLIT/]NAME.png`` (8 or 16 bits), and what a user hands over.

Alpha is gray, 0 for background and the full scale for foreground; of a PNG with transparency it is the transparency.
``given`` of a sample is its trimap (0 background, 128 unknown, 255 foreground) in ``trimaps/[SPLIT/]NAME.png``; without
them a photograph of the background alone, in ``backgrounds/[SPLIT/]NAME.png`` or ``.jpg``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import decoded, numbers_in
from eachmask.data.formats.paired import copy_pairs, folder_in, folders_of, has_pair, named, pairs_in, read_pairs
from eachmask.data.images.read import read_image
from eachmask.data.packed import Texts
from eachmask.data.problems import Problem
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Category, Matte, Preprocess, Trimap, UserError
from eachmask.structures.backdrop import Backdrop
from eachmask.structures.spatial import Spatial

FOLDERS = ("alpha", "alphas", "mattes")
TRIMAPS = ("trimaps", "trimap")
BACKGROUNDS = ("backgrounds", "background", "bgr")
FOREGROUND = (Category(1, "foreground"),)


def read_mattes(
    source: Path, progress: Progress = no_progress, *, images: Path | None = None
) -> Dataset[FileSplit[Matte]]:
    """Read images/ (or another folder ``images``) and alpha/; where every image has one, trimaps or backgrounds too.

    Raises:
        UserError: there is no such pair of folders.
    """
    images, alphas = folders_of(source, FOLDERS, images)
    pairs, problems = pairs_in(images, alphas, "matte")
    data = read_pairs(pairs, FOREGROUND, matte, problems)
    for names, read in ((TRIMAPS, trimap), (BACKGROUNDS, backdrop)):
        folder = folder_in(source, names)
        if folder is not None:
            return _with_given(data, alphas, folder, read)
    return data


def matte(file: Path, categories: tuple[Category, ...], entry: Mapping[str, Any]) -> Matte:
    """One matte.

    Raises:
        UserError: it cannot be read.
    """
    data = np.fromfile(file, np.uint8) if file.is_file() else np.empty(0, np.uint8)
    pixels = decoded(data)
    if pixels is None or pixels.dtype.kind != "u":
        raise UserError(f"{file} is no matte: save it as a gray PNG of 8 or 16 bits")
    alpha = pixels if pixels.ndim == 2 else pixels[..., 3] if pixels.shape[2] == 4 else pixels[..., 0]
    return Matte(torch.from_numpy(alpha.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 65535)))


def trimap(file: Path) -> Trimap:
    """One trimap.

    Raises:
        UserError: it cannot be read, or holds other values than 0, 128 and 255.
    """
    try:
        return Trimap(torch.from_numpy(numbers_in(file).astype(np.int64)))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def backdrop(file: Path) -> Backdrop:
    """One photograph of a background.

    Raises:
        UserError: it cannot be read.
    """
    return Backdrop(Preprocess().to_float(read_image(file)))


def write_mattes(target: Path, data: Dataset[FileSplit[Matte]], progress: Progress = no_progress) -> list[str]:
    """Write images/SPLIT and alpha/SPLIT (gray PNG of 16 bits)."""
    for path, seen in copy_pairs(target, FOLDERS[0], data, progress):
        alpha = (seen.alpha.float() * 65535).round().numpy().astype(np.uint16)
        path.write_bytes(png(alpha))
    return ["trimaps and backgrounds: only mattes are written"] if any(s.given_in for s in data.splits.values()) else []


def _with_given(
    data: Dataset[FileSplit[Matte]], alphas: Path, folder: Path, read: Callable[[Path], Spatial]
) -> Dataset[FileSplit[Matte]]:
    splits, problems = {}, list(data.problems)
    for name, split in data.splits.items():
        files = [named(Path(file).relative_to(alphas).with_suffix(""), folder) for file in split.targets_in]
        missing = [str(alpha) for alpha, file in zip(split.targets_in, files, strict=True) if file is None]
        if missing and len(missing) < len(files):
            what = f"{folder.name}/ has nothing for {len(missing)} of {len(files)} mattes (this is the first), so that"
            remedy = f"add what is missing, or take {folder.name}/ away"
            where = "" if len(data.splits) == 1 else f" for {name}"
            problems.append(Problem(missing[0], "", f"{what} none is used{where}", remedy, "missing", "warning"))
        given = None if missing else Texts.of(str(file) for file in files)
        splits[name] = replace(split, given_in=given, read_given=None if missing else read)
    return replace(data.with_splits(splits), problems=problems)


FORMAT = Format(
    "mattes",
    partial(has_pair, names=FOLDERS),
    "folders images and alpha",
    read_mattes,
    write_mattes,
    takes_images=True,
    target=Matte,
)
