"""COCO data sets read: every instances file of a folder, each a split; what cannot be used is named and left out.

The one reader of the format: lenient for training, strict for measuring, where a data set is as its makers meant it or
is not measured at all.
"""

from __future__ import annotations

import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats import coco_fields as fields
from eachmask.data.formats.drawn import beginning
from eachmask.data.formats.segmentations import (
    BEYOND,
    LEAVES,
    Mistakes,
    Rasterized,
    Rows,
    Size,
    outline_of,
    rasterize_readable,
)
from eachmask.data.images.files import image_size, matching
from eachmask.data.other_tools import tool_of
from eachmask.data.packed import Records
from eachmask.data.problems import Problem, only_boxes
from eachmask.data.targets import score_in
from eachmask.files.json_lists import JsonList, read_object
from eachmask.files.progress import Progress, no_progress
from eachmask.files.text import is_utf8, read_text
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.rle_codec import offsets_of

_SPLITS = ("train", "val", "valid", "test")


def find_coco_files(source: Path) -> list[Path]:
    """The instances files of a folder: in it, or in its folder ``annotations``; or the file itself."""
    if source.is_file():
        return [source]
    for folder in (source, source / "annotations"):
        found = matching(folder, "instances*.json") or [p for p in matching(folder, "*.json") if is_coco(p)]
        if found:
            return found
    return matching(source, "*/_annotations.coco.json")


def is_coco(path: Path) -> bool:
    """Whether a file looks like one of images and annotations, and not of panoptic segments."""
    with open(path, "rb") as handle:
        text = (handle.read() if path.stat().st_size < 10**8 else handle.read(10**6)).replace(b"\0", b"")
    parts = (b'"images"', b'"annotations"')
    named = b'"file_name"' in text or b'"categories"' in text  # no images at all have no names
    return named and all(part in text for part in parts) and b'"segments_info"' not in text


def read_coco(
    source: Path, progress: Progress = no_progress, *, images: Path | None = None, strict: bool = False
) -> Dataset:
    """Read all instances files of a folder, or one; each is a split, named after its file.

    Args:
        images: the folder that the names of images start from, where it is none of the usual.
        strict: the first annotation or image that cannot be used is an error, with the sentence that else describes
            the problem.

    Raises:
        UserError: there is no instances file, or none of them is JSON of the known make.
    """
    files = find_coco_files(source)
    if not files:
        raise UserError(f"{source} holds no COCO instances file: name it instances_train.json")
    builder = DatasetBuilder(strict=strict)
    contents, copies = {}, tempfile.TemporaryDirectory()
    for path in progress("parsing", files):
        own = _utf8(path, Path(copies.name))
        try:
            contents[path] = _content(own)
        except UserError as error:
            what = tool_of([(path, beginning(path))]) or str(error).replace(str(own), str(path))
            if len(files) == 1:
                raise UserError(what) from None
            builder.report(Problem(str(path), "", what, "the other files are read", "file"))
    if not contents:
        raise UserError(builder.problems[0].what)
    builder.categories = _joined_categories(contents)
    root = _empty_root(builder.categories, contents.values())
    if root is not None:
        builder.categories = tuple(category for category in builder.categories if category is not root)
        what, remedy = "it has no objects and is the supercategory of all others", "it is left out of the classes"
        builder.report(Problem(str(files[0]), f"class {root.name}", what, remedy, "category", "note"))
    for content in contents.values():
        for key, more in fields.read_category_fields(content["categories"]).items():
            builder.category_fields.setdefault(key, more)
    for path, content in contents.items():
        if not len(content["images"]):
            remedy = "export it again; of predictions summary.json says why images failed"
            builder.report(Problem(str(path), "", "it lists no images", remedy, "file", "warning"))
        split = _split_name(path)
        folders = _image_folders(path, split) if images is None else (images, path.parent)
        _Reader(path, split, folders, builder).read(content, progress)
    copies.cleanup()
    return builder.build()


def _utf8(path: Path, folder: Path) -> Path:
    """The file, or a copy in UTF-8 where it is written otherwise: entries are parsed by their places in it."""
    if is_utf8(path):
        return path
    copy = folder / f"{len(list(folder.iterdir()))}.json"
    copy.write_text(read_text(path), encoding="utf-8")
    return copy


def _content(path: Path) -> dict[str, Any]:
    """An instances file; its images and annotations are parsed one by one when they are asked for."""
    content = read_object(path, {"images": JsonList, "annotations": _Annotations})
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), JsonList | list):
            raise UserError(f"{path} is no COCO instances file: it has no list named {key!r}")
    return content


def _joined_categories(contents: dict[Path, dict[str, Any]]) -> tuple[Category, ...]:
    """The categories of all files; an id must mean the same everywhere."""
    by_id: dict[int, Category] = {}
    for path, content in contents.items():
        for category in fields.read_categories(content["categories"], path):
            known = by_id.setdefault(category.id, category)
            if known.name != category.name:
                raise UserError(
                    f"{path}: category {category.id} is {category.name!r}, but another file of the data set calls it "
                    f"{known.name!r}: give each category one id"
                )
    return tuple(by_id.values())


def _empty_root(categories: Sequence[Category], contents: Iterable[dict[str, Any]]) -> Category | None:
    """The class that Roboflow puts above all others, and of which no annotation is."""
    used = {number for content in contents for number in content["annotations"].classes}
    for root in categories:
        others = [category for category in categories if category is not root]
        if others and root.id not in used and all(category.parent == root.name for category in others):
            return root
    return None


def _split_name(path: Path) -> str:
    name = path.parent.name if path.name == "_annotations.coco.json" else path.stem
    own = name.lower().replace("instances", "", 1)
    found = next((word for word in re.split(r"[^a-z]+", own) if word in _SPLITS), "")
    return found or (name.removeprefix("instances_") if name.startswith("instances_") else "all")


def _image_folders(path: Path, split: str) -> tuple[Path, Path]:
    """Where the names of images start from: the folder of the split's images, or the data set itself."""
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    year = re.search(r"\d{4}", path.stem)
    own = path.stem.removeprefix("instances_")
    names = [f"images/{own}", own, f"images/{split}", f"{split}{year.group() if year else ''}", "images", split, "."]
    return next(base / name for name in names if (base / name).is_dir()), base


class _Annotations(JsonList):
    """The annotations of a file; whose they are is noted when they pass."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.images: dict[float | str, int] = {}
        """The images that annotations name, numbered as they come."""
        self.owners = array("q")
        """(N,) numbers of ``images``; -1 where an annotation names none or is none."""
        self.same_id: list[int] = []
        """Places of those whose id another has had."""
        self.classes: set[int | None] = set()
        """The categories that annotations name."""
        self._ids: set[float | str | None] = set()

    def append(self, begin: int, end: int, entry: Any) -> None:
        super().append(begin, end, entry)
        self.classes.add(fields.whole_number(entry.get("category_id")) if isinstance(entry, dict) else None)
        owner = fields.plain_id(entry.get("image_id")) if _has_an_id(entry) else None
        if owner is None:
            self.owners.append(-1)
            return
        own = entry.get("id")
        if own is not None and own in self._ids:
            self.same_id.append(len(self.owners))
        self._ids.add(own)
        self.owners.append(self.images.setdefault(owner, len(self.images)))


def _has_an_id(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), int | float | str | None)


def _by_name(records: Sequence[dict[str, Any]]) -> dict[Any, int]:
    """Images by their names, with suffix and without, by which some tools' annotations call them."""
    names = [record["file_name"] for record in records]
    stems = {str(PurePosixPath(name).with_suffix("")): i for i, name in enumerate(names)}
    return stems | {name: i for i, name in enumerate(names)}


def _scores(rows: list[dict[str, Any]]) -> torch.Tensor | None:
    """Those of predictions; NaN beside them where a row has none."""
    found = [score_in(row) for row in rows]
    return torch.tensor([np.nan if score is None else score for score in found]) if any(found) else None


def _is_size(height: int, width: int) -> bool:
    """Whether runs of pixels can be counted in 32 bits."""
    return height > 0 and width > 0 and height * width < 1 << 32


def _are_shares(rings: Any) -> bool:
    """Whether an outline lies within 0 to 1, and not in whole numbers."""
    if not isinstance(rings, list) or not all(isinstance(ring, list | tuple) for ring in rings):
        return False
    numbers = [number for ring in rings for number in ring]
    return all(0 <= number <= 1 for number in numbers) and any(number % 1 for number in numbers)


@dataclass
class _Reader:
    file: Path
    split: str
    folders: tuple[Path, Path]
    builder: DatasetBuilder
    refused: set[float | str] = field(default_factory=set)
    """Images whose entries cannot be used."""
    boxes: Counter[str] = field(default_factory=Counter)
    """How many there are, how many could be two corners, how many are wrong as they are meant."""

    def read(self, content: dict[str, Any], progress: Progress) -> None:
        """All images of the file, with their annotations."""
        self.builder.add_split(self.split)
        records = Records(self._records(content["images"]))
        annotations: _Annotations = content["annotations"]
        known = {fields.plain_id(record["id"]): i for i, record in enumerate(records)}
        if not known.keys() >= annotations.images.keys():
            known = _by_name(records) | known
        places, first = self._by_image(annotations, known)
        label_of = {category.id: label for label, category in enumerate(self.builder.categories)}
        num_boxes = 0

        def pages() -> Iterator[tuple[tuple[dict[str, Any], list[dict[str, Any]]], Rows, Size]]:
            for i, record in enumerate(progress("reading", records)):
                own = annotations.take(places[first[i] : first[i + 1]].tolist())
                rows = list(self._of_known_class(own, label_of, record))
                yield (record, rows), rows, (record["height"], record["width"])

        for (record, rows), masks, mistakes in rasterize_readable(pages()):
            num_boxes += sum(not outline_of(row) for row in compress(rows, (masks.area > 0).tolist()))
            self._add(record, rows, masks, mistakes, label_of)
        for problem in only_boxes(self.file, num_boxes):
            self.builder.report(problem)
        if self.boxes["wrong"] and self.boxes["corners"] == self.boxes["all"]:
            what, remedy = "its boxes look like corners, x1 y1 x2 y2", "COCO's are x y width height: write them so"
            self.builder.report(Problem(str(self.file), "", what, remedy, "box corners", "warning"))

    def _by_image(
        self, annotations: _Annotations, image: Mapping[Any, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in the file of the annotations that have an image, image by image, and where each image's begin."""
        number = np.array([*(image.get(key, -1) for key in annotations.images), -1])
        owners = number[np.array(annotations.owners, np.int64)]
        for place in sorted({*np.flatnonzero(owners < 0).tolist(), *annotations.same_id}):
            row = annotations[place]
            if owners[place] >= 0:
                self._problem(row, "another annotation has the same id", "number them anew", "duplicate id", "warning")
            elif not _has_an_id(row):
                self._problem(row, "it is no annotation with an id", "mend or delete it", "annotation")
            elif fields.plain_id(row.get("image_id")) in self.refused:
                self._problem(row, "the entry of its image cannot be used", "mend that entry", "orphan")
            else:
                self._problem(row, "its image is not in the list of images", "add the image or delete it", "orphan")
        order = np.argsort(owners, kind="stable")
        ends = offsets_of(np.bincount(owners + 1, minlength=len(image) + 1))
        return order, ends[1:]

    def _records(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
        ids: set[float | str] = set()
        names: set[str] = set()
        for number, row in enumerate(map(fields.with_file_name, rows), start=1):
            try:
                key, name = (
                    fields.plain_id(row["id"]),
                    fields.inside_name(str(row["file_name"]), self.file, self.folders),
                )
                if key is None:
                    raise ValueError
                height, width = self._size(row, name)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                reason = str(error) if isinstance(error, UserError) else "id, file_name, width or height is missing"
                self.builder.report(Problem(str(self.file), f"image {number}", reason, "mend its entry", "image"))
                if isinstance(row, dict) and (key := fields.plain_id(row.get("id"))) is not None:
                    self.refused.add(key)
                continue
            if key in ids or name in names or not _is_size(height, width):
                what = "its size is no size" if key not in ids and name not in names else "it is listed twice"
                self.builder.report(Problem(str(self.file), f"image {key}", what, "mend its entry", "duplicate id"))
                self.refused.add(key)
                continue
            ids.add(key)
            names.add(name)
            yield {**row, "file_name": name, "height": height, "width": width}

    def _size(self, row: Mapping[str, Any], name: str) -> Size:
        """(height, width) as the entry says, or, where it says nothing of use, those of the file."""
        height, width = (fields.whole_number(row.get(key)) or 0 for key in ("height", "width"))
        if _is_size(height, width):
            return height, width
        size = image_size(fields.image_file(name, self.folders))
        what = "it has neither width nor height, or not as numbers"
        remedy = f"those of the file are taken, {size[1]} x {size[0]}"
        self.builder.report(Problem(str(self.file), f"image {row['id']}", what, remedy, "image", "warning"))
        return size

    def _add(
        self,
        record: dict[str, Any],
        rows: list[dict[str, Any]],
        masks: Rasterized,
        mistakes: Mistakes,
        label_of: Mapping[int, int],
    ) -> None:
        some = masks.area > 0
        self._name_unusable(record, rows, some, mistakes)
        rows = list(compress(rows, some.tolist()))
        self._check_boxes(rows, masks.boxes[some], record)
        points = self._keypoints(rows)
        targets = Instances(
            image_size=masks.masks.size,
            boxes=torch.from_numpy(masks.boxes[some]),
            masks=masks.masks if some.all() else masks.masks[some],
            labels=torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64),
            crowd=torch.tensor([fields.is_crowd(row) for row in rows], dtype=torch.bool),
            keypoints=None if points is None else torch.from_numpy(points),
            scores=_scores(rows),
        )
        path = fields.image_file(record["file_name"], self.folders)
        name = path.relative_to(self.folders[0]).as_posix() if path.is_relative_to(self.folders[0]) else ""
        self.builder.add(
            self.split,
            name or record["file_name"],
            path,
            targets,
            object_ids=[str(row.get("id")) for row in rows],
            stated=np.array([(*fields.box_of(row), fields.area_of(row)) for row in rows]).reshape(-1, 5),
            entry=fields.image_entry(record, name),
        )

    def _name_unusable(
        self, record: dict[str, Any], rows: list[dict[str, Any]], some: NDArray[np.bool_], mistakes: Mistakes
    ) -> None:
        for i in np.flatnonzero(~some).tolist():
            row = rows[i]
            if i in mistakes.unread:
                what = f"its segmentation cannot be read ({mistakes.unread[i]})"
                self._problem(row, what, "draw it anew or delete it", record=record)
                continue
            rings = outline_of(row)
            few = isinstance(rings, list) and all(len(ring) < 6 for ring in rings)
            what = "its outline has fewer than three points" if few else "it covers no pixel of the image"
            what = BEYOND if i in mistakes.beyond else what
            remedy = "delete it or draw it anew"
            if _are_shares(rings or [fields.box_of(row)]):
                what, remedy = "its coordinates look like shares of the image", "multiply them by its width and height"
            self._problem(row, what, remedy, "empty", record=record)
        for i in mistakes.outside:
            self._problem(rows[i], *LEAVES, record=record)

    def _of_known_class(
        self, rows: list[dict[str, Any]], label_of: Mapping[int, int], record: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        for row in rows:
            number = fields.whole_number(row.get("category_id"))
            if number not in label_of:
                number = self._id_of(row.get("category_id", row.get("category_name")))
            if number is not None:
                yield row if isinstance(row.get("category_id"), int) else {**row, "category_id": number}
            else:
                what = f"category_id {row.get('category_id')} is not among the categories"
                self._problem(row, what, "add the category or mend the id", "category", record=record)

    def _id_of(self, name: Any) -> int | None:
        """The id of a category that an annotation gives by its name."""
        return next((category.id for category in self.builder.categories if category.name == str(name)), None)

    def _keypoints(self, rows: list[dict[str, Any]]) -> NDArray[np.float32] | None:
        """Those that can be read; the others are named."""
        try:
            return fields.packed_keypoints(rows)
        except (TypeError, ValueError):
            pass
        readable = []
        for row in rows:
            try:
                fields.packed_keypoints([row])
                readable.append(row)
            except (TypeError, ValueError):
                what, remedy = "its keypoints cannot be read", "write x, y and visibility of each, or none"
                self._problem(row, what, remedy, "keypoints")
                readable.append({**row, "keypoints": None})
        return fields.packed_keypoints(readable)

    def _check_boxes(self, rows: list[dict[str, Any]], tight: Any, record: dict[str, Any]) -> None:
        height, width = record["height"], record["width"]
        box = np.array([fields.box_of(row) for row in rows], np.float64).reshape(-1, 4)
        (x, y, w, h), remedy = box.T, "the box of its mask is taken"
        given = np.isfinite(box).all(1)
        flat = given & ((w <= 0) | (h <= 0))
        outside = given & ~flat & ((x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1))
        gap = np.abs(tight - np.stack([x, y, x + w, y + h], 1)).max(1, initial=0)
        another = given & ~flat & ~outside & (gap > np.maximum(5, 0.1 * np.maximum(w, h)))
        corners = (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)
        self.boxes.update(all=given.sum(), corners=corners.sum(), wrong=(outside | another).sum())
        for i in np.flatnonzero(~given | flat | outside | another):
            if flat[i]:
                self._problem(
                    rows[i], f"its box {w[i]:g} x {h[i]:g} is degenerate", remedy, "degenerate box", record=record
                )
            elif outside[i]:
                self._problem(rows[i], "its box leaves the image", remedy, "outside", "warning", record=record)
            elif another[i]:
                self._problem(
                    rows[i], "its box does not fit its mask", remedy, "box and mask", "warning", record=record
                )
            else:
                self._problem(
                    rows[i], "it has no box of four numbers", remedy, "degenerate box", "warning", record=record
                )

    def _problem(
        self,
        row: Any,
        what: str,
        remedy: str,
        kind: str = "segmentation",
        severity: str = "error",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        known = isinstance(row, dict) and row.get("id") is not None
        name = f"annotation {row['id']}" if known else "an annotation"
        if record is None and isinstance(row, dict) and row.get("image_id") is not None:
            name += f" of image {row['image_id']}"
        elif record is not None:
            name += f" of {record['file_name']}"
        self.builder.report(Problem(str(self.file), name, what, remedy, kind, severity))
