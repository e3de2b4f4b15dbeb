"""The objects of label maps: one for each number, or, of masks of the foreground, one for each connected part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.formats.label_maps import is_jpeg, numbers_in
from eachmask.data.problems import Problem, lossy_masks
from eachmask.files.text import counted
from eachmask.structures import RLE, UserError

WHITE = (255, 65535)
"""What masks of the foreground have in it, of 8 and of 16 bits."""


def read_maps(
    files: Iterable[Path],
    source: Path,
    result: DatasetBuilder,
    numbers: Callable[[Path], NDArray[Any]] = numbers_in,
    remedy: str = "save it anew as 16-bit PNG",
) -> Iterator[tuple[Path, dict[int, RLE]]]:
    """Each map with the masks of its numbers; one that ``numbers`` cannot read is reported.

    Where no map has another number than 255, these are masks of the foreground and not numbers of objects: then each
    connected part is an object, which is reported too.
    """
    maps: list[tuple[Path, dict[int, RLE]]] = []
    for file in files:
        try:
            maps.append((file, masks_by_number(_counted(numbers(file)))))
        except UserError as error:
            what = str(error).replace(str(file), "it", 1)
            result.report(Problem(str(file), "", what, remedy, "label map"))
    result.problems += lossy_masks(source, sum(is_jpeg(file) for file, _ in maps))
    found = {number for _, masks in maps for number in masks} - {0}
    if len(found) == 1 and found <= {1, *WHITE}:
        maps = _of_foreground(maps, found.pop(), source, result)
    elif len(found) > 2:
        result.problems += [*_void(maps, source), *_without_background(maps, source)]
    yield from maps


def _void(maps: list[tuple[Path, dict[int, RLE]]], source: Path) -> Iterator[Problem]:
    """What to say where the highest number of 8 or 16 bits stands far above all others, as that of no object."""
    alone = [max(own) for _, own in maps if len(own) > 1 and max(own) in WHITE and sorted(own)[-2] * 2 < max(own)]
    if alone:
        what = f"in {counted(len(alone), 'map')} {alone[0]} stands far above all other numbers, and is an object"
        remedy = "write 0 there if it means pixels that do not count"
        yield Problem(str(source), "", what, remedy, "void", "warning", len(alone))


def _without_background(maps: list[tuple[Path, dict[int, RLE]]], source: Path) -> Iterator[Problem]:
    """What to say where every pixel of every map is of an object, as where the background is 1."""
    sizes = [next(iter(own.values())).size for _, own in maps]
    covered = [sum(int(mask.area().sum()) for mask in own.values()) for _, own in maps]
    if covered == [height * width for height, width in sizes]:
        what, remedy = "not one pixel is 0, so that the background, if there is one, is an object", "write 0 for it"
        yield Problem(str(source), "", what, remedy, "background", "warning")


def _of_foreground(
    maps: list[tuple[Path, dict[int, RLE]]], value: int, source: Path, result: DatasetBuilder
) -> list[tuple[Path, dict[int, RLE]]]:
    """Maps of one value by their connected parts; where it is 1, which may be an object's number, as they are."""
    parted = [(file, {n: part for own in masks.values() for n, part in _parts(own)}) for file, masks in maps]
    what = f"every map has only 0 and {value}, "
    if value in WHITE:
        what += "which are no numbers of objects: each connected part is taken for one"
        remedy = "number objects that touch each other, which connected components cannot tell apart"
    elif sum(len(parts) > 1 for _, parts in parted) * 2 > len(maps):
        what += "so that all of an image is one object"
        remedy = "if these are masks of the foreground write 255 for 1, then connected components are the objects"
    else:
        return maps
    result.report(Problem(str(source), "", what, remedy, "binary map", "warning"))
    return parted if value in WHITE else maps


def _counted(labels: NDArray[Any]) -> NDArray[Any]:
    """The map itself; a UserError where it has numbers below 0, whose 0 may be an object."""
    least = int(labels.min(initial=0))
    if least < 0:
        raise UserError(f"it has the number {least}, but the background must be 0 and objects count from 1")
    return labels


def masks_by_number(labels: NDArray[Any]) -> dict[int, RLE]:
    """Number in a map -> its mask; 0 and no mask where there is none."""
    masks = RLE.from_label_map(labels)
    values = [int(v) for v in np.unique(labels) if v > 0]
    return {value: masks[i] for i, value in enumerate(values)} or {0: masks}


def _parts(mask: RLE) -> Iterator[tuple[int, RLE]]:
    """The connected parts of the one mask, from 1; pixels that touch at a corner are one part."""
    if not len(mask):
        yield 0, mask
        return
    number, labels = cv2.connectedComponents(mask.to_label_map().astype(np.uint8), connectivity=8)
    parts = RLE.from_label_map(labels)
    yield from ((i + 1, parts[i]) for i in range(number - 1))
