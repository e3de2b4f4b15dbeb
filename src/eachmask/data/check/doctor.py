"""doctor: what is wrong with a data set, file by file, with the remedy; and a repaired copy.

Nothing is trusted that can be looked at: every image is decoded once, and its pixels are hashed, so that the same
image is found again under another name, also in another split, where it would make every measured score a lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.convert import make_classes_unique, make_images_unique
from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.formats.format import Format
from eachmask.data.image_files import ImageView
from eachmask.data.images.files import image_size
from eachmask.data.images.read import num_pages, read_image
from eachmask.data.problems import Problem, gravity
from eachmask.data.reading import read_any
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import masks_of
from eachmask.files.new_folder import check_free, new_folder
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances, UserError
from eachmask.structures.spatial import Labeled

_SAME = 0.95
"""Two objects of one class with a higher IoU are one object annotated twice."""
_NAMED = 5
"""Classes without objects that are told one by one; of more, these are named in one sentence."""
_ALIKE = 0.5
"""Annotations of two copies of an image with a higher IoU mean the same object."""
_SMALLEST = 4
"""Pixels; what is smaller is more likely a slip of the hand than an object."""
_IMBALANCE = 100.0
_SIZES = (("tiny, below 8 px", 8), ("small, 8 to 32 px", 32), ("medium, 32 to 96 px", 96), ("large", 10**9))
"""Side of a square of the object's area, in pixels (32 and 96 are COCO's limits)."""


@dataclass
class Examination:
    """What was found."""

    source: Path
    source_format: Format
    data: Dataset
    findings: list[Problem] = field(default_factory=list)
    """Errors first."""
    class_balance: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> class name -> objects."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Size range -> objects."""
    broken: set[tuple[str, str]] = field(default_factory=set)
    """(split, name) of images that cannot be used."""
    copies: set[tuple[str, str]] = field(default_factory=set)
    """(split, name) of images that are in the data set twice, all but the one to keep."""
    doubled: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """(split, name) -> objects that are annotated twice, or are specks."""
    rescaled: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(split, name) -> the image's real size, where the annotations were made on a scaled copy."""
    suspects: list[tuple[str, AnnotatedImage, int, str]] = field(default_factory=list)
    """(split, image, object or -1, why): what the report shows."""

    @property
    def num_errors(self) -> int:
        """Findings that spoil training or measuring."""
        return sum(finding.severity == "error" for finding in self.findings)

    def add(self, problem: Problem, split: str = "", image: ImageView[Any] | None = None, number: int = -1) -> None:
        """Write a finding down, with the image to show."""
        self.findings.append(problem)
        if isinstance(image, AnnotatedImage):
            self.suspects.append((split, image, number, problem.what))


def examine(
    source: Path, source_format: str | None = None, progress: Progress = no_progress, images: Path | None = None
) -> Examination:
    """Look at a whole data set.

    Args:
        source: as for ``convert``.
        source_format: found out if None.
        progress: sees the images go by.
        images: the folder to look for images in, where they are not in the data set's own.

    Raises:
        UserError: there is no data set to look at.
    """
    data, found = read_any(source, source_format, progress, images)
    if found.target is not Instances:
        return _examine_files(source, found, data, progress)
    data, _ = make_images_unique(data)  # from here on an image is known by its split and name
    data, doubled = make_classes_unique(data)
    result = Examination(source, found, data, list(data.problems))
    for name in doubled:
        what, remedy = "several classes have this name", "rename or join them (--fix adds their ids to the names)"
        result.add(Problem(str(source), f"class {name}", what, remedy, "class name", "warning"))
    hashes: dict[str, list[tuple[str, AnnotatedImage]]] = {}
    for split, image in progress("examining", list(data.images())):
        digest = _look_at_image(result, split, image)
        if digest:
            hashes.setdefault(digest, []).append((split, image))
        _look_at_objects(result, split, image)
    _look_for_copies(result, hashes)
    _look_at_classes(result)
    result.findings.sort(key=gravity)
    return result


def _examine_files(source: Path, found: Format, data: Dataset[Any], progress: Progress) -> Examination:
    """Maps and mattes: whether both files of each image can be read and fit, the same image twice, and how many images
    show each class."""
    result = Examination(source, found, data, list(data.problems))
    seen: dict[str, tuple[str, str]] = {}
    names = [category.name for category in data.categories]
    for split, images in data.splits.items():
        balance = result.class_balance[split] = dict.fromkeys(names, 0)
        for i in progress("examining", range(len(images))):
            image = ImageView(images, i)
            digest = _look_at_image(result, split, image)
            own = (split, image.name)
            first = seen.setdefault(digest, own)
            if digest and first != own:
                leaks = first[0] != split
                what = f"the same image as {first[0]}/{first[1]}"
                what += ": measured on it, the score would be too high" if leaks else ""
                kind = ("leakage", "error") if leaks else ("duplicate image", "warning")
                result.add(Problem(str(image.path), "", what, "keep one (--fix does)", *kind))
                if first not in result.broken:
                    result.copies.add(first if leaks and first[0] == "train" else own)
            try:
                target = image.targets
            except UserError as error:
                file = images.targets_in[i]
                what = str(error).removeprefix(f"{file}: ").removeprefix(f"{file} ")
                result.add(Problem(file, "", what, "restore it from the original", "label map"))
                result.broken.add(own)
                continue
            _look_at_map(result, images, i, target)
            for label in target.present() if isinstance(target, Labeled) else ():
                balance[names[label]] += 1
    if result.num_errors == 0 and len(names) > 1:
        result.findings += _class_findings(result)
    result.findings.sort(key=gravity)
    return result


def _look_at_map(result: Examination, images: FileSplit[Any], index: int, target: Any) -> None:
    """What of it does not count, though nobody said so."""
    file = images.targets_in[index]
    doubts = images.doubts(Path(file), images.entry(index)) if images.doubts is not None else ""
    if doubts:
        remedy = "correct the map, or name what is missing in the list of classes"
        result.add(Problem(file, "", doubts, remedy, "unknown value", "warning"))
    elif isinstance(target, Labeled) and not target.present():
        what, remedy = "not one pixel is of a class", "right if nothing in the image is to count"
        result.add(Problem(file, "", what, remedy, "no objects", "warning"))


# One image ----------------------------------------------------------------------------------------


def _look_at_image(result: Examination, split: str, image: ImageView[Any]) -> str:
    """Decode it; returns the hash of its pixels, "" where it cannot be used."""
    path, expected = image.path, image.image_size
    key = (split, image.name)
    if not path.is_file():
        what, remedy = "the image is missing", "put it there or remove its annotations"
        result.add(Problem(str(path), "", what, remedy, "missing image"))
        result.broken.add(key)
        return ""
    try:
        pixels = read_image(path)
        stored = image_size(path, upright=False)
    except UserError as error:
        what = str(error).removeprefix(f"{path} ")
        result.add(Problem(str(path), "", what, "restore it from the original", "damaged image"))
        result.broken.add(key)
        return ""
    pages = num_pages(path)
    if pages > 1:
        what = f"it has {pages} pages, and its annotations are taken to be of the first"
        result.add(Problem(str(path), "", what, "save each page as an image of its own", "pages", "note"))
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    if size != expected:
        _wrong_size(result, split, image, (size, stored))
    return hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + np.ascontiguousarray(pixels).data).hexdigest()


def _wrong_size(
    result: Examination, split: str, image: ImageView[Any], sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    size, stored = sizes
    height, width = image.image_size
    file, key = str(image.path), (split, image.name)
    shown = f"{size[1]} x {size[0]}"
    if stored == (height, width):
        what = f"the annotations ({width} x {height}) ignore the EXIF orientation, which turns the image to {shown}"
        remedy = "remove the orientation tag (--fix does)"
        result.add(Problem(file, "", what, remedy, "EXIF", "warning"), split, image)
        return
    if size == (width, height):
        what = f"width and height are swapped: the annotations are for {width} x {height}, the image is {shown}"
        remedy = "annotate the image as it is shown, or turn it back"
        result.add(Problem(file, "", what, remedy, "swapped size"), split, image)
        result.broken.add(key)
        return
    what = f"the annotations are for {width} x {height}, the image is {shown}"
    alike = abs(size[0] * width - size[1] * height) <= max(size[1], width)
    remedy = "scale the annotations (--fix does)" if alike else "restore the image that was annotated"
    result.add(Problem(file, "", what, remedy, "wrong size"), split, image)
    if alike:
        result.rescaled[key] = size
    else:
        result.broken.add(key)


def _look_at_objects(result: Examination, split: str, image: AnnotatedImage) -> None:
    targets = image.targets
    masks, labels, crowd = masks_of(targets), targets.labels.numpy(), targets.crowd.numpy()
    area, boxes = masks.area(), masks.boxes()
    file, key = str(image.path), (split, image.name)
    for i in np.flatnonzero(area < _SMALLEST):
        x, y = boxes[i, :2].astype(int)
        what = f"a speck of {area[i]} pixels at ({x}, {y})"
        remedy = "delete it or draw it anew (--fix deletes)"
        problem = Problem(file, image.object_name(int(i)), what, remedy, "speck", "warning")
        result.add(problem, split, image, int(i))
        result.doubled.setdefault(key, set()).add(int(i))
    overlaps = masks.overlaps(masks)
    iou = overlaps.pixels / (area[overlaps.rows] + area[overlaps.columns] - overlaps.pixels)
    alike = (labels[overlaps.rows] == labels[overlaps.columns]) & (crowd[overlaps.rows] == crowd[overlaps.columns])
    twice = (overlaps.rows < overlaps.columns) & (iou > _SAME) & alike
    for i, j, value in zip(overlaps.rows[twice], overlaps.columns[twice], iou[twice], strict=True):
        what = f"it is the same as {image.object_name(int(i))} (IoU {value:.2f})"
        remedy = "delete one of them (--fix does)"
        problem = Problem(file, image.object_name(int(j)), what, remedy, "annotated twice", "warning")
        result.add(problem, split, image, int(j))
        result.doubled.setdefault(key, set()).add(int(j))
    for (name, limit), count in zip(_SIZES, _histogram(area), strict=True):
        del limit
        result.sizes[name] = result.sizes.get(name, 0) + count


def _histogram(area: NDArray[np.int64]) -> list[int]:
    place = np.searchsorted([limit for _, limit in _SIZES[:-1]], np.sqrt(area), side="right")
    return [int(v) for v in np.bincount(place, minlength=len(_SIZES))]


# The whole set ------------------------------------------------------------------------------------


def _look_for_copies(result: Examination, hashes: dict[str, list[tuple[str, AnnotatedImage]]]) -> None:
    """The same pixels twice. In two splits the copy in ``train`` goes: what measures stays as it was."""
    for group in hashes.values():
        if len(group) < 2:
            continue
        ordered = sorted(group, key=lambda entry: (entry[0] == "train", -len(entry[1])))
        keep_split, keep = ordered[0]
        for split, image in ordered[1:]:
            file, more = str(image.path), _num_more(image, keep) if split == keep_split else 0
            if not more:
                result.copies.add((split, image.name))
            if more:
                what = f"the same image as {keep.name}, with {more} objects that are not annotated there"
                problem = Problem(file, "", what, "join the annotations of both", "duplicate image")
            elif split == keep_split:
                what = f"the same image as {keep.name}"
                problem = Problem(file, "", what, "keep one (--fix does)", "duplicate image", "warning")
            else:
                what = f"the same image is {keep.name} in {keep_split}: measured on it, the score would be too high"
                problem = Problem(file, "", what, f"keep it in one split (--fix keeps {keep_split})", "leakage")
            result.add(problem, split, image)


def _num_more(image: AnnotatedImage, keep: AnnotatedImage) -> int:
    """How many objects of an image its copy lacks, which would be lost with it."""
    masks, others = masks_of(image.targets), masks_of(keep.targets)
    if masks.size != others.size:
        return 0
    return int((masks.iou(others).max(1, initial=0.0) < _ALIKE).sum())


def _look_at_classes(result: Examination) -> None:
    names = [category.name for category in result.data.categories]
    for split, images in result.data.splits.items():
        counts = np.bincount(images.labels, minlength=len(names))
        result.class_balance[split] = {name: int(n) for name, n in zip(names, counts, strict=True)}
    result.findings += _class_findings(result)
    result.findings += _split_findings(result)


def _class_findings(result: Examination) -> Iterator[Problem]:
    balance, file = result.class_balance, str(result.source)
    total = {name: sum(counts[name] for counts in balance.values()) for name in next(iter(balance.values()))}
    empty = [name for name, count in total.items() if not count]
    if len(empty) > _NAMED:  # a part of COCO has its 80 classes still
        what = f"{len(empty)} of {len(total)} classes have not one object: {', '.join(empty[:_NAMED])} and others"
        yield Problem(file, "", what, "remove the classes or annotate them", "empty class", "warning")
    for name, count in total.items():
        if not count and len(empty) <= _NAMED:
            what, remedy = "the class has not one object", "remove the class or annotate it"
            yield Problem(file, f"class {name}", what, remedy, "empty class", "warning")
        elif count and balance.get("train", {name: 1})[name] == 0:
            what, remedy = "the class is measured, but not in train", "move images with it to train"
            yield Problem(file, f"class {name}", what, remedy, "class not in train", "warning")
    present = {name: count for name, count in total.items() if count}
    if present and max(present.values()) > _IMBALANCE * min(present.values()):
        rare, often = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
        what = f"{present[often]} objects are {often}, {present[rare]} are {rare}"
        yield Problem(file, "", what, "sample rare classes more often or annotate more", "imbalance", "note")


def _split_findings(result: Examination) -> Iterator[Problem]:
    for split, images in result.data.splits.items():
        empty = sum(not len(image) for image in images.images())
        where = f"split {split}"
        if empty:
            what = f"{empty} of {len(images)} images have no objects"
            yield Problem(str(result.source), where, what, "right if they show none", "no objects", "note")
        crowd, objects = int(images.crowd.sum()), len(images.labels)
        if crowd > objects / 2:
            what = f"{crowd} of {objects} objects are crowd regions, which are not learnt"
            yield Problem(str(result.source), where, what, "set iscrowd to 0 where it is one object", "crowd")


# Repair -------------------------------------------------------------------------------------------


def repaired(result: Examination) -> Dataset:
    """The data set without what is broken or double, annotations scaled to their images where needed."""
    builder = DatasetBuilder(result.data.categories)
    builder.category_fields = result.data.category_fields
    for split in result.data.splits:
        builder.add_split(split)
    for split, image in result.data.images():
        if (split, image.name) not in result.broken | result.copies:
            entry = image.split.entry(image.index)
            builder.add(split, image.name, image.path, _repaired_targets(result, split, image), entry=entry)
    return builder.build()


def _usable(result: Examination) -> Dataset[Any]:
    """Of images with files of their own those that can be used, each once."""
    unusable, splits = result.broken | result.copies, {}
    for name, images in result.data.splits.items():
        kept = [i for i in range(len(images)) if (name, images.names[i]) not in unusable]
        if kept:
            splits[name] = images.take(kept)
    return result.data.with_splits(splits)


def write_repaired(result: Examination, target: Path, progress: Progress = no_progress) -> list[str]:
    """Write :func:`repaired` in the source's own format to a new folder; returns the format's notes.

    Of maps and mattes, images that are damaged, or whose files are, are left out, and so are copies.

    Raises:
        UserError: the folder is not empty, or nothing is left.
    """
    check_free(target)
    data = repaired(result) if result.source_format.target is Instances else _usable(result)
    if not len(data):
        raise UserError(f"not one image of {result.source} can be used: restore the images first")
    with new_folder(target) as folder:
        return result.source_format.write(folder, data, progress)


def _repaired_targets(result: Examination, split: str, image: AnnotatedImage) -> Instances:
    key = (split, image.name)
    bad = result.doubled.get(key, set())
    targets: Instances = image.targets[[i for i in range(len(image)) if i not in bad]]
    if key in result.rescaled:
        targets = targets.resize(result.rescaled[key])
        targets = targets[np.flatnonzero(masks_of(targets).area() >= _SMALLEST)]  # the others are specks now
    return targets
