"""Maps that are painted in the colors of a table, as CamVid's are (Brostow et al., 2009).

The table is ``label_colors.txt`` (``64 128 64<tab>Animal`` a line, CamVid's own) or ``class_dict.csv``
(``name,r,g,b``). Images and maps lie in ``701_StillsRaw_full`` and ``LabeledApproved_full``, in ``SPLIT`` and
``SPLIT_labels`` (CVAT: ``SPLITannot``), or in ``images`` and ``labels`` with splits below; a map may have ``_L`` behind
its image's name.
Colors that the table does not name, and what it calls Void, do not count.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.data.formats.format import Format
from eachmask.data.formats.paired import Pair, copy_pairs
from eachmask.data.formats.scene_maps import Coding, Color, Layout, beside
from eachmask.data.problems import Problem
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import read_text
from eachmask.structures import UserError

TABLES = ("label_colors.txt", "class_dict.csv")
STILLS = ("701_StillsRaw_full", "LabeledApproved_full")
PLAIN = ("images", "labels")
ENDS = ("_labels", "annot")
"""What may stand behind a split's name in that of the folder of its maps; the second is CVAT's."""
VOID = "void"


def colors_in(source: Path) -> dict[str, Color]:
    """Name -> color, by the table of a folder.

    Raises:
        UserError: a line is not a name and three numbers.
    """
    path = next(source / name for name in TABLES if (source / name).is_file())
    try:
        if path.suffix == ".csv":
            rows = csv.DictReader(read_text(path).splitlines())
            return {row["name"].strip(): (int(row["r"]), int(row["g"]), int(row["b"])) for row in rows}
        lines = [line.split(maxsplit=3) for line in read_text(path).splitlines() if line.strip()]
        return {name.strip(): (int(r), int(g), int(b)) for r, g, b, name in lines}
    except (ValueError, KeyError):
        raise UserError(f"{path}: each line must have three numbers, red, green and blue, and a name") from None


def coding(source: Path) -> Coding:
    """By the table, without what is void."""
    table = colors_in(source)
    named = {name: color for name, color in table.items() if name.casefold() != VOID}
    void = frozenset(color for name, color in table.items() if name not in named)
    return Coding(tuple(named), {}, {color: label for label, color in enumerate(named.values())}, void)


def find(source: Path) -> tuple[list[Pair], list[Problem]]:
    """By whichever of the layouts is there."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for images, maps, split in _folders(source):
        ending = "_L.png" if any(maps.glob("*_L.png")) else ".png"
        own, wrong = beside(images, maps, split, lambda stem, ending=ending: f"{stem}{ending}")  # type: ignore[misc]
        pairs, problems = pairs + own, problems + wrong
    return pairs, problems


def write_color_maps(target: Path, data: Any, progress: Progress = no_progress) -> list[str]:
    """Write images/SPLIT, labels/SPLIT in VOC's colors from the second on, and label_colors.txt; black is void."""
    from eachmask.data.formats.voc_classes import palette

    colors = np.array(palette(), np.uint8).reshape(-1, 3)
    if len(data.categories) >= len(colors):
        raise UserError(f"{len(data.categories)} classes are more than there are colors: --to class-maps has no limit")
    for path, seen in copy_pairs(target, PLAIN[1], data, progress):
        labels = seen.labels.long().numpy()
        painted = colors[np.where(labels == seen.ignore, 0, labels + 1)]
        path.write_bytes(png(painted))
    rows = [(*colors[k + 1].tolist(), category.name) for k, category in enumerate(data.categories)]
    text = "".join(f"{r} {g} {b}\t{name}\n" for r, g, b, name in [*rows, (0, 0, 0, "Void")])
    (target / TABLES[0]).write_text(text, encoding="utf-8")
    return []


def _folders(source: Path) -> list[tuple[Path, Path, str]]:
    """(images, maps, split)."""
    if all((source / name).is_dir() for name in STILLS):
        return [(source / STILLS[0], source / STILLS[1], "all")]
    if all((source / name).is_dir() for name in PLAIN):
        images, maps = (source / name for name in PLAIN)
        splits = sorted(path.name for path in images.iterdir() if path.is_dir())
        return [(images / split, maps / split, split) for split in splits] or [(images, maps, "all")]
    found = [
        (path.with_name(path.name.removesuffix(end)), path, path.name.removesuffix(end))
        for path in sorted(source.iterdir())
        for end in ENDS
        if path.is_dir() and path.name.endswith(end)
    ]
    return [own for own in found if own[0].is_dir()]


LAYOUT = Layout(
    name="color-maps",
    marks="a table label_colors.txt or class_dict.csv beside the folders of images and maps",
    looks_like=lambda source: any((source / name).is_file() for name in TABLES) and bool(_folders(source)),
    find=find,
    coding=coding,
    place=lambda split, stem: (f"images/{split}/{stem}", f"labels/{split}/{stem}.png"),
)
_FORMAT = LAYOUT.format()
FORMAT = Format(_FORMAT.name, _FORMAT.looks_like, _FORMAT.marks, _FORMAT.read, write_color_maps, target=_FORMAT.target)
