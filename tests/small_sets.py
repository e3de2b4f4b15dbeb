"""Small made data sets with everything that formats find hard: holes, parts, overlaps, crowds, id gaps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from eachmask.data import Dataset, DatasetBuilder
from eachmask.data.targets import instances_of
from eachmask.structures import RLE, Category, Instances

CATEGORIES = (Category(3, "cell"), Category(7, "dead cell"), Category(40, "bead"))
SIZE = (48, 64)


def shapes(overlapping: bool = False) -> np.ndarray:
    """(4, 48, 64) bool: a square, a ring with an island, two separate blocks, an odd blob; no two overlap unless
    asked to."""
    masks = np.zeros((4, *SIZE), bool)
    masks[0, 2:10, 3:14] = True
    masks[1, 12:36, 4:30] = True
    masks[1, 16:32, 8:26] = False
    masks[1, 22:25, 12:15] = True
    masks[2, 3:9, 40:46] = True
    masks[2, 5:30, 55:58] = True
    masks[3, 36:46, 40:52] = True
    masks[3, 36, 40] = masks[3, 45, 51] = False
    if overlapping:
        masks[3, 20:46, 20:40] = True
    return masks


def make_set(folder: Path, overlapping: bool = False, crowd: bool = False) -> Dataset:
    """Two images in train, one in val, one of them without objects, image files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    masks = RLE.from_bitmaps(shapes(overlapping))
    full = instances_of(masks, [0, 1, 2, 0], [False, False, crowd, False], CATEGORIES)
    none = instances_of(masks[:0], [], [], CATEGORIES)
    builder = DatasetBuilder(CATEGORIES)
    for split, name, targets in (("train", "a.png", full), ("train", "b.png", none), ("val", "c.png", full[[1, 3]])):
        path = folder / name
        cv2.imwrite(str(path), rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8))
        builder.add(split, name, path, targets)
    return builder.build()


Row = tuple[str, Path, Instances]
"""An image: its name, its file, its objects."""


def rows_of(data: Dataset) -> dict[str, list[Row]]:
    """What a set was built from, to be changed."""
    return {name: [(p.name, p.path, p.targets) for p in split.images()] for name, split in data.splits.items()}


def built(categories: tuple[Category, ...], splits: dict[str, list[Row]]) -> Dataset:
    builder = DatasetBuilder(categories)
    for split, rows in splits.items():
        builder.add_split(split)
        for row in rows:
            builder.add(split, *row)
    return builder.build()
