"""PASCAL VOC's and Pascal Context's label maps: ``JPEGImages/NAME.jpg`` and ``SegmentationClass/NAME.png``.

A map's value is the class: 0 background, 255 void; maps of RGB, as CVAT exports them, have the colors of
``labelmap.txt`` or VOC's own. ``SegmentationClassContext`` (Mottaghi et al., CVPR 2014) has 59 classes and the
background. Splits are ``ImageSets/Segmentation(Context)/SPLIT.txt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from eachmask.data.formats.paired import Pair
from eachmask.data.formats.scene_maps import IGNORE, Coding, Layout, named_in
from eachmask.data.formats.voc_classes import VOID_COLOR, read_classes
from eachmask.data.images.files import files_below, find_image, matching
from eachmask.data.problems import Problem
from eachmask.files.text import read_text

NAMES = "class_names.txt"
CONTEXT = (
    "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog",
    "door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike",
    "mountain", "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk",
    "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window",
    "wood",
)  # fmt: skip


def find(source: Path, folder: str, lists: str) -> tuple[list[Pair], list[Problem]]:
    """By the lists, else all maps; a name is taken once."""
    names: dict[str, str] = {}
    for file in sorted(matching(source / "ImageSets" / lists, "*.txt"), key=lambda p: p.stem in ("trainval", "all")):
        for name in read_text(file).splitlines():
            if name.strip():
                names.setdefault(name.strip(), file.stem)
    maps = (file.relative_to(source / folder).with_suffix("") for file in files_below(source / folder, "*.png"))
    names = names or {file.as_posix(): "all" for file in maps}
    pairs, problems = [], []
    for name, split in names.items():
        image, file = find_image(source / "JPEGImages", name), source / folder / f"{name}.png"
        if image is None or not file.is_file():
            what = f"there is no image {name}" if image is None else f"there is no map {file}"
            problems.append(Problem(str(source), "", what, "add it or take it off the list", "image"))
        else:
            own = PurePosixPath(name.removeprefix(f"{split}__"))
            pairs.append(Pair(split, str(own.with_name(image.name.removeprefix(f"{split}__"))), image, file))
    return pairs, problems


def voc_coding(source: Path) -> Coding:
    """By the folder's lists, else VOC's twenty."""
    listed = read_classes(source)
    own = named_in(source / NAMES)
    coding = Coding.counted(own or ("background", *(category.name for category in listed.categories)))
    colors = {(0, 0, 0): 0} | {color: label for color, label in listed.colors.items() if label in coding.values}
    return replace(coding, colors=colors, void=frozenset({IGNORE, VOID_COLOR}))


def write_lists(lists: str, target: Path, stems: Mapping[str, Sequence[str]]) -> None:
    """The images of each split."""
    folder = target / "ImageSets" / lists
    folder.mkdir(parents=True, exist_ok=True)
    for split, own in stems.items():
        (folder / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in own), encoding="utf-8")


def _layout(name: str, folder: str, lists: str, coding: Any) -> Layout:
    return Layout(
        name=name,
        marks=f"folders JPEGImages and {folder}",
        looks_like=lambda source: (source / "JPEGImages").is_dir() and bool(files_below(source / folder, "*.png")),
        find=partial(find, folder=folder, lists=lists),
        coding=coding,
        place=lambda split, stem: (f"JPEGImages/{stem}", f"{folder}/{stem}.png"),
        names=NAMES,
        flat=True,
        finish=partial(write_lists, lists),
    )


VOC = _layout("voc-classes", "SegmentationClass", "Segmentation", voc_coding).format()
PASCAL_CONTEXT = _layout(
    "pascal-context", "SegmentationClassContext", "SegmentationContext", lambda source: Coding.counted(CONTEXT)
).format()
