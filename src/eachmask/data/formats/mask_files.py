"""One file per mask, as in the Data Science Bowl 2018: ``SPLIT/ID/images/ID.*`` and ``SPLIT/ID/masks/*.png``.

Without SPLIT it is read as well. What class an object is of says ``objects.csv``
(:mod:`~eachmask.data.formats.class_table`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.class_table import read_table, write_table
from eachmask.data.formats.format import Format
from eachmask.data.formats.label_maps import is_jpeg, values_in
from eachmask.data.images.files import below, copy_image, image_files, image_size, matching
from eachmask.data.problems import Problem, lossy_masks
from eachmask.data.targets import masks_of
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import RLE, UserError


def read_mask_files(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read folders ID/images and ID/masks, at any depth; what is not there is looked for in the folder ``images``.

    Raises:
        UserError: there is no such folder.
    """
    table, elsewhere = read_table(source), None if images is None else ImageFolder(images)
    result = DatasetBuilder(table.categories)
    for folder in progress("reading", [p.parent for p in below(source, "masks") if p.is_dir()]):
        relative = folder.relative_to(source)
        found = image_files(folder / "images") if (folder / "images").is_dir() else []
        if not found and elsewhere is not None:
            found = [path for path in [elsewhere.of_stem(relative.as_posix())] if path is not None]
        if len(found) != 1:
            what = f"images/ holds {len(found)} images instead of one"
            result.report(Problem(str(folder), "", what, "leave the one that the masks belong to", "image"))
            continue
        split = relative.parts[0] if len(relative.parts) > 1 else "all"
        inner = Path(*relative.parts[1:]) if len(relative.parts) > 1 else relative
        name = f"{inner.as_posix()}{found[0].suffix}"
        masks = dict(_read_masks(folder / "masks", found[0], result.problems))
        if not masks:
            what, remedy = "neither the image nor a mask can be read", "restore the image or delete its folder"
            result.report(Problem(str(found[0]), "", what, remedy, "image"))
            continue
        result.add(split, name, found[0], table.targets(split, name, masks))
    if not len(result):
        raise UserError(f"{source} holds no folders ID/images and ID/masks")
    return result.build()


def write_mask_files(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/ID/images and SPLIT/ID/masks/00001.png ... (8-bit, 0 and 255), and objects.csv."""
    for split, image in progress("writing", list(data.images())):
        folder = target / split / image.stem
        copy_image(image, folder / "images" / Path(image.name).name)
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        height, width = image.image_size
        bitmaps = masks_of(image.targets).to_bitmaps()
        for i, (crop, (x, y)) in enumerate(zip(bitmaps.crops, bitmaps.origins.tolist(), strict=True), start=1):
            canvas = np.zeros((height, width), np.uint8)
            canvas[y : y + crop.shape[0], x : x + crop.shape[1]] = crop * np.uint8(255)
            (folder / "masks" / f"{i:05d}.png").write_bytes(png(canvas))
    write_table(target, data)
    return []


def _read_masks(folder: Path, image: Path, problems: list[Problem]) -> Iterator[tuple[int, RLE]]:
    """Number of each mask and the mask; where there is none, 0 and none, if the size of the image is known."""
    try:
        size = image_size(image)
    except UserError:
        size = None  # told where the image is looked at
    files = image_files(folder)
    some, num_jpeg = False, 0
    for number, file in zip(_numbers(files), files, strict=True):
        try:
            pixels = values_in(file)
        except UserError as error:
            what = str(error).replace(str(file), "it", 1)
            problems.append(Problem(str(file), "", what, "draw the mask anew", "truncated"))
            continue
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            what = f"it is {pixels.shape[1]} x {pixels.shape[0]}, the image {size[1]} x {size[0]}"
            problems.append(Problem(str(file), "", what, "export the mask at the size of the image", "size"))
            continue
        inside = _inside(pixels, file)
        num_jpeg += is_jpeg(file)
        if not inside.any():
            problems.append(Problem(str(file), "", "the mask is empty", "delete the file", "empty"))
            continue
        if inside.all():
            what, remedy = "the mask covers all of the image", "make it black where the object is not"
            problems.append(Problem(str(file), "", what, remedy, "full mask", "warning"))
        some = True
        yield number, RLE.from_bitmaps(inside)
    problems += lossy_masks(folder, num_jpeg)
    if size is not None and not some:
        yield 0, RLE.empty((int(size[0]), int(size[1])))


def _inside(pixels: NDArray[Any], file: Path) -> NDArray[np.bool_]:
    """(1, H, W): what is not black; of JPEG, where nothing is quite black, what is brighter than half. Where all is of
    one color, what is not transparent."""
    value = pixels[..., :3].max(2) if pixels.ndim == 3 else pixels
    if pixels.ndim == 3 and pixels.shape[2] == 4 and (value == value[0, 0]).all():
        value = pixels[..., 3]
    return np.asarray(value > (127 if is_jpeg(file) else 0))[None]


def _numbers(files: Sequence[Path]) -> Iterator[int]:
    """The number that each file's name is; files of other names, or of one that was there, are numbered on."""
    own = [int(file.stem) if file.stem.isdecimal() and len(file.stem) < 7 else 0 for file in files]
    following, taken = count(max(own, default=0) + 1), {0}
    for number in own:
        yield next(following) if number in taken else number
        taken.add(number)


def _looks_like(source: Path) -> bool:
    return any(path.is_dir() for pattern in ("*/masks", "*/*/masks") for path in matching(source, pattern))


FORMAT = Format(
    "mask-files",
    _looks_like,
    "folders ID/images and ID/masks",
    read_mask_files,
    write_mask_files,
    takes_images=True,
)
