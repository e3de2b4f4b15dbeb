"""ADE20K's scene parsing benchmark (Zhou et al., arXiv 1608.05442): ``images/training/NAME.jpg``,
``annotations/training/NAME.png``; 0 is unlabeled, 1 ... 150 are the classes, named by ``objectInfo150.txt``."""

from __future__ import annotations

from pathlib import Path

from eachmask.data.formats.paired import Pair
from eachmask.data.formats.scene_maps import Coding, Layout, beside, named_in
from eachmask.data.problems import Problem
from eachmask.structures.class_lists import ADE20K

SPLITS = {"training": "train", "validation": "val"}


def find(source: Path) -> tuple[list[Pair], list[Problem]]:
    """Both splits."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for folder in sorted(path.name for path in (source / "annotations").iterdir() if path.is_dir()):
        own, wrong = beside(
            source / "images" / folder, source / "annotations" / folder, SPLITS.get(folder, folder), "{}.png".format
        )
        pairs, problems = pairs + own, problems + wrong
    return pairs, problems


def coding(source: Path) -> Coding:
    """Names by the list that comes with the data, their first word each; else the benchmark's own."""
    rows = [line.split("\t") for line in named_in(source / "objectInfo150.txt")]
    names = [row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdigit()]
    return Coding.counted(names or ADE20K, first=1)


def _place(split: str, stem: str) -> tuple[str, str]:
    folder = {ours: theirs for theirs, ours in SPLITS.items()}.get(split, split)
    return f"images/{folder}/{stem}", f"annotations/{folder}/{stem}.png"


FORMAT = Layout(
    name="ade20k",
    marks="folders images/training and annotations/training (or validation)",
    looks_like=lambda source: (
        any((source / "annotations" / folder).is_dir() for folder in SPLITS)
        and any((source / "images" / folder).is_dir() for folder in SPLITS)
    ),
    find=find,
    coding=coding,
    place=_place,
    first=1,
).format()
