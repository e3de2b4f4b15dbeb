"""Cityscapes' label maps (Cordts et al., arXiv 1604.01685): labelTrainIds PNGs, or labelIds, as the 19 trained classes.

``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/NAME_gtFine_label(Train)Ids.png``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eachmask.data.formats.paired import Pair
from eachmask.data.formats.scene_maps import IGNORE, Coding, Layout
from eachmask.data.images.files import files_below, find_image
from eachmask.data.problems import Problem
from eachmask.structures.class_lists import CITYSCAPES

ENDINGS = ("labelTrainIds", "labelIds")
CITY = "city"
"""Of images that have none, where they are written."""
NUM_IDS = 34
"""Of labelIds, which 19 of are trained; the license plate is -1, in 8 bits 255."""


def find(source: Path) -> tuple[list[Pair], list[Problem]]:
    """All maps of the ending that is there, with their images."""
    ending, files = _maps(source)
    return pairs_of(source, files, f"_gtFine_{ending}.png")


def pairs_of(source: Path, files: Iterable[Path], ending: str) -> tuple[list[Pair], list[Problem]]:
    """Files below gtFine with their images.

    Args:
        ending: of the files' names, behind that of the image.
    """
    pairs, problems = [], []
    for file in files:
        place = file.relative_to(source / "gtFine").parent
        stem = file.name.removesuffix(ending)
        image = find_image(source / "leftImg8bit" / place, f"{stem}_leftImg8bit")
        if image is None:
            problems.append(Problem(str(file), "", "it has no image", "put it into leftImg8bit", "missing"))
            continue
        split, *city = place.parts or ("all",)
        city = [] if city == [CITY] else city
        pairs.append(Pair(split, "/".join([*city, f"{stem}{image.suffix}"]), image, file))
    return pairs, problems


def coding(source: Path) -> Coding:
    """Of trainIds as they are; of ids those that are trained."""
    ending, _ = _maps(source)
    if ending == "labelTrainIds":
        return Coding.counted(tuple(CITYSCAPES))
    trained = {number: label for label, number in enumerate(CITYSCAPES.values())}
    return Coding(tuple(CITYSCAPES), trained, void=frozenset({*range(NUM_IDS), IGNORE}))


def _maps(source: Path) -> tuple[str, list[Path]]:
    for ending in ENDINGS:
        files = sorted(files_below(source / "gtFine", f"*_gtFine_{ending}.png"))
        if files:
            return ending, files
    return ENDINGS[0], []


def _place(split: str, stem: str) -> tuple[str, str]:
    name = stem if "/" in stem else f"{CITY}/{stem}"
    return f"leftImg8bit/{split}/{name}_leftImg8bit", f"gtFine/{split}/{name}_gtFine_labelTrainIds.png"


FORMAT = Layout(
    name="cityscapes-classes",
    marks="a folder gtFine with labelIds or labelTrainIds",
    looks_like=lambda source: (source / "gtFine").is_dir() and bool(_maps(source)[1]),
    find=find,
    coding=coding,
    place=_place,
    names="gtFine/class_names.txt",
).format()
