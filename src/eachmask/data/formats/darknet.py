"""Darknet's YOLO, which CVAT calls YOLO 1.1: boxes in ``obj_SPLIT_data/*.txt`` beside the images, written.

``obj.data`` names the list of classes and one list of images for each split, ``train.txt`` and ``valid.txt``; CVAT
takes no other splits. It is read as other YOLO text is.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from eachmask.data.dataset import Dataset
from eachmask.data.formats.format import Format
from eachmask.data.formats.yolo import SPLIT_COMMENT, data_files, read_yolo
from eachmask.data.images.files import copy_image, matching
from eachmask.files.atomic import atomic
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances

_USUAL = {"val": "valid", "all": "train"}


def write_darknet(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write obj.data, obj.names, a list for each split, and images with their boxes; returns notes on what the format
    cannot say."""
    theirs = _split_names(list(data.splits))
    lists: dict[str, list[str]] = {name: [] for name in theirs.values()}
    crowds = 0
    for split, record in progress("writing", list(data.images())):
        place = PurePosixPath(f"obj_{theirs[split]}_data", record.name)
        image = target / place
        copy_image(record, image)
        image.parent.mkdir(parents=True, exist_ok=True)
        targets = record.targets
        objects = targets[~targets.crowd]
        image.with_suffix(".txt").write_text(_lines(objects), encoding="utf-8")
        crowds += len(targets) - len(objects)
        lists[theirs[split]].append(place.as_posix())
    target.mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (target / f"{name}.txt").write_text("".join(f"{image}\n" for image in images), encoding="utf-8")
    (target / "obj.names").write_text("".join(f"{c.name}\n" for c in data.categories), encoding="utf-8")
    _write_data(target / "obj.data", len(data.categories), theirs)
    others = [name for name in lists if name not in ("train", "valid")]
    notes = ["objects are their boxes: neither darknet nor CVAT's YOLO 1.1 knows outlines"]
    notes += [f"CVAT takes train and valid alone, and not {', '.join(others)}"] if others else []
    return notes + ([f"{crowds} crowd regions are left out, which the format does not know"] if crowds else [])


def _split_names(splits: list[str]) -> dict[str, str]:
    """Our name of each split -> theirs, as long as no other has it."""
    return {split: split if _USUAL.get(split, split) in splits else _USUAL.get(split, split) for split in splits}


def _lines(objects: Instances) -> str:
    height, width = objects.image_size
    rows = []
    for label, (x1, y1, x2, y2) in zip(objects.labels.tolist(), objects.boxes.tolist(), strict=True):
        shares = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
        rows.append(" ".join([str(label), *(f"{value:.7g}" for value in shares)]))
    return "".join(f"{row}\n" for row in rows)


def _write_data(path: Path, num_classes: int, splits: dict[str, str]) -> None:
    """obj.data; a comment says what a split is called here, where that is not CVAT's word for it."""
    with atomic(path) as file:
        file.write(f"classes = {num_classes}\nnames = obj.names\n")
        for ours, theirs in splits.items():
            comment = f"{SPLIT_COMMENT} {ours} = {theirs}\n" if ours != theirs else ""
            file.write(f"{comment}{theirs} = {theirs}.txt\n")
        file.write("backup = backup/\n")


def _looks_like(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".data"
    return bool(data_files(source)) and not matching(source, "*.y*ml")


FORMAT = Format("darknet", _looks_like, "obj.data", read_yolo, write_darknet, takes_images=True)
