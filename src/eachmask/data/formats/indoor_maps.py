"""SUN RGB-D (Song et al., CVPR 2015) and NYUv2 (Silberman et al., ECCV 2012) as label PNGs: ``image/NAME.*`` and
``label37/NAME.png`` or ``label40/NAME.png``; 0 is unlabeled, 1 ... K are the classes. ``label/`` too, where classes.txt
names the classes or the format is named: others call their folders so as well."""

from __future__ import annotations

from pathlib import Path

from eachmask.data.formats.paired import Pair, folder_in
from eachmask.data.formats.scene_maps import NAMES, Coding, Layout, beside
from eachmask.data.problems import Problem

SUN = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag",
)  # fmt: skip
"""The 37 of SUN RGB-D, which are the first of NYUv2's 40."""
NYU = (*SUN, "otherstructure", "otherfurniture", "otherprop")
IMAGES, MAPS = ("image", "rgb"), ("label37", "label40", "label")


def find(source: Path) -> tuple[list[Pair], list[Problem]]:
    """Images with their maps; folders below are splits."""
    images, maps = folder_in(source, IMAGES), folder_in(source, MAPS)
    assert images is not None and maps is not None
    splits = sorted(path.name for path in images.iterdir() if path.is_dir())
    if not splits:
        return beside(images, maps, "all", "{}.png".format)
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for split in splits:
        own, wrong = beside(images / split, maps / split, split, "{}.png".format)
        pairs, problems = pairs + own, problems + wrong
    return pairs, problems


def coding(source: Path) -> Coding:
    """37 or 40 classes, as the folder says."""
    return Coding.counted(NYU if (source / "label40").is_dir() else SUN, first=1)


def _looks_like(source: Path) -> bool:
    sure = MAPS if (source / NAMES).is_file() else MAPS[:2]
    return folder_in(source, IMAGES) is not None and folder_in(source, sure) is not None


FORMAT = Layout(
    name="indoor-maps",
    marks="folders image (or rgb) and label37, label40, or label and classes.txt",
    looks_like=_looks_like,
    find=find,
    coding=coding,
    place=lambda split, stem: (f"image/{split}/{stem}", f"label/{split}/{stem}.png"),
    first=1,
).format()
