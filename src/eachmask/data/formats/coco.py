"""COCO instances: data sets read and written, results written (Lin et al., arXiv 1405.0312).

In memory the annotations of a data set are a few packed arrays, however many there are: worker processes
share them, and nothing is copied page by page. Category ids may have gaps and any order; labels are positions
in ``categories``, which keeps the file's order, and are mapped back on writing.
"""

from __future__ import annotations

# ruff: noqa: F401
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.formats.coco_fields import (
    box_of,
    image_file,
    is_crowd,
    packed_keypoints,
    parsed,
    read_categories,
    read_category_fields,
    read_image_fields,
    read_json,
    whole_number,
    with_file_name,
)
from eachmask.data.formats.coco_read import find_coco_files, read_coco
from eachmask.data.formats.coco_write import write_coco, write_coco_folder
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import BROKEN, Rasterized, draw, rasterize_one, reason
from eachmask.data.images.read import read_image
from eachmask.data.packed import Records
from eachmask.data.sample import Sample
from eachmask.structures import RLE, Instances, UserError
from eachmask.structures.coco import category_to_dict, to_annotations
from eachmask.structures.rle_codec import offsets_of


class CocoDataset:
    """The images and annotations of one instances file.

    Images without annotations are kept: they teach what is background. Annotations without a single
    pixel are left out; ``dropped`` says which and why.

    Args:
        annotations: the JSON file.
        images: the folder that the ``file_name`` entries start from.

    Raises:
        UserError: the file is no COCO instances file, or an annotation is broken; names file and id.
    """

    def __init__(self, annotations: str | Path, images: str | Path) -> None:
        self.path, self.folder = Path(annotations), Path(images)
        content = read_json(self.path, ("images", "annotations", "categories"))
        self.categories = read_categories(content["categories"], self.path)
        self.category_fields = read_category_fields(content["categories"])
        self.dropped: list[str] = []
        records = [with_file_name(record) for record in content["images"]]
        self._pack(records, in_image_order(content["annotations"], records, self.path))
        self.records = Records(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return Sample(
            self.image(index), self._targets(index, record), self.image_path(index), whole_number(record["id"]) or 0
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def image_path(self, index: int) -> Path:
        """Where the file of image ``index`` is, or should be."""
        return image_file(self.records[index]["file_name"], (self.folder, self.path.parent))

    def image(self, index: int) -> NDArray[Any]:
        """Image ``index`` alone, (H, W, 3), upright as it was annotated.

        Raises:
            UserError: it cannot be read, or has another size than its annotations say.
        """
        return _read_as_annotated(self.image_path(index), self.records[index])

    def targets(self, index: int) -> Instances:
        """What is annotated in image ``index``, without reading the image."""
        return self._targets(index, self.records[index])

    @property
    def nbytes(self) -> int:
        """Memory that the annotations take, bytes, whatever the number of worker processes."""
        arrays = (self._counts, self._offsets, self._first, self._labels, self._crowd, self._boxes)
        points = 0 if self._keypoints is None else self._keypoints.nbytes
        return sum(int(array.nbytes) for array in arrays) + int(points) + self.records.nbytes

    def _targets(self, index: int, record: Mapping[str, Any]) -> Instances:
        index = range(len(self))[index]
        chosen = slice(int(self._first[index]), int(self._first[index + 1]))
        runs = self._offsets[chosen.start : chosen.stop + 1]
        size = (int(record["height"]), int(record["width"]))
        return Instances(
            image_size=size,
            boxes=torch.from_numpy(self._boxes[chosen].copy()),
            masks=RLE(self._counts[runs[0] : runs[-1]], runs - runs[0], size),
            labels=torch.from_numpy(self._labels[chosen].copy()),
            crowd=torch.from_numpy(self._crowd[chosen].copy()),
            keypoints=None if self._keypoints is None else torch.from_numpy(self._keypoints[chosen].copy()),
            categories=self.categories,
        )

    def _pack(self, records: Sequence[dict[str, Any]], rows: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Annotations per image -> the packed arrays."""
        label_of = {category.id: label for label, category in enumerate(self.categories)}
        counts, lengths, boxes, per_image = [], [], [], []
        kept: list[dict[str, Any]] = []
        for record, group, drawn in zip(records, rows, rasterized_of(rows, records, self.path), strict=True):
            self._check(group, drawn.area, record, label_of)
            some = drawn.area > 0
            masks = drawn.masks if some.all() else drawn.masks[some]
            kept += compress(group, some.tolist())
            counts.append(masks.counts)
            lengths.append(np.diff(masks.offsets))
            boxes.append(drawn.boxes[some])
            per_image.append(len(masks))
        self._counts = np.concatenate([np.zeros(0, np.uint32), *counts])
        self._offsets = np.cumsum(np.concatenate([[0], *lengths])).astype(np.int64)
        self._first = offsets_of(np.array(per_image, np.int64))
        self._labels = np.array([label_of[cast(int, whole_number(a["category_id"]))] for a in kept], np.int64)
        self._crowd = np.array([is_crowd(a) for a in kept], bool)
        self._boxes = _packed_boxes(kept, np.concatenate([np.zeros((0, 4), np.float32), *boxes]))
        self._keypoints = packed_keypoints(kept)

    def _check(
        self,
        group: Sequence[dict[str, Any]],
        area: NDArray[np.int64],
        record: Mapping[str, Any],
        label_of: Mapping[int, int],
    ) -> None:
        """Every annotation must be of a known class; those without a pixel are written down."""
        for row, pixels in zip(group, area.tolist(), strict=True):
            name = f"annotation {row.get('id')} of {record['file_name']}"
            if not pixels:
                self.dropped.append(f"{name} covers no pixel")
            if whole_number(row.get("category_id")) not in label_of:
                raise UserError(
                    f"{self.path}: {name} has category_id {row.get('category_id')}, which is not in the "
                    "file's categories: add it or mend the id"
                )


def in_image_order(
    rows: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]], path: Path
) -> list[list[dict[str, Any]]]:
    """Annotations grouped by image, in the order of the image records."""
    try:
        place = {record["id"]: i for i, record in enumerate(records)}
        for record in records:
            record["file_name"], int(record["height"]), int(record["width"])
    except (TypeError, KeyError, ValueError, OverflowError):
        raise UserError(f"{path}: each image needs an id, file_name, width and height") from None
    if len(place) != len(records):
        raise UserError(f"{path}: two images have the same id")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), int | float | str):
            raise UserError(f"{path}: entry {number} of the list has no image_id")
        if row["image_id"] not in place:
            name = f"annotation {row['id']}" if "id" in row else f"entry {number}"
            raise UserError(f"{path}: {name} belongs to image {row['image_id']}, which is not in the list of images")
    groups: list[list[dict[str, Any]]] = [[] for _ in records]
    for image_id, group in groupby(sorted(rows, key=lambda r: place[r["image_id"]]), lambda r: r["image_id"]):
        groups[place[image_id]] = list(group)
    return groups


def rasterized_of(
    groups: Sequence[Sequence[dict[str, Any]]], records: Sequence[Mapping[str, Any]], path: Path
) -> Iterator[Rasterized]:
    """The masks of each image; the first segmentation that cannot be read is named in a UserError."""
    sizes = [(int(record["height"]), int(record["width"])) for record in records]
    for group, record, size, found in zip(groups, records, sizes, draw(zip(groups, sizes, strict=True)), strict=True):
        if found is None:
            raise _broken(group, record, size, path)
        yield found


def _broken(group: Sequence[dict[str, Any]], record: Mapping[str, Any], size: tuple[int, int], path: Path) -> UserError:
    for row in group:
        try:
            rasterize_one([row], size)
        except BROKEN as error:
            return UserError(
                f"{path}: the segmentation of annotation {row.get('id')} of {record['file_name']} cannot be read "
                f"({reason(error)}): mend or remove it"
            )
    return UserError(f"{path}: the segmentations of {record['file_name']} cannot be read: mend or remove them")


def _packed_boxes(kept: Sequence[dict[str, Any]], tight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) xyxy of the annotations' own boxes; an annotation without a usable one gets the box of its mask."""
    boxes = np.array([box_of(row) for row in kept], np.float64).reshape(-1, 4)
    unusable = ~(np.isfinite(boxes) & (boxes > [-np.inf, -np.inf, 0, 0])).all(1)
    boxes[:, 2:] += boxes[:, :2]
    boxes[unusable] = tight[unusable]
    return boxes.astype(np.float32)


def _read_as_annotated(path: Path, record: Mapping[str, Any]) -> NDArray[Any]:
    """The image, turned by its EXIF orientation exactly if the annotator's tool did so too."""
    size = (int(record["height"]), int(record["width"]))
    image = read_image(path)
    if image.shape[:2] != size:
        stored = read_image(path, upright=False)
        if stored.shape[:2] != size:
            raise UserError(
                f"{path} is {image.shape[1]} x {image.shape[0]}, but its annotations are for "
                f"{size[1]} x {size[0]}: restore the annotated image or export the annotations again"
            )
        return stored
    return image


def _looks_like(source: Path) -> bool:
    return source.suffix.lower() == ".json" if source.is_file() else bool(find_coco_files(source))


FORMAT = Format("coco", _looks_like, "instances_SPLIT.json", read_coco, write_coco_folder)
