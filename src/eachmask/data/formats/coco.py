"""COCO instances: data sets read and written, results written (Lin et al., arXiv 1405.0312).

In memory the annotations of a data set are a few packed arrays, however many there are: worker processes
share them, and nothing is copied page by page. Category ids may have gaps and any order; labels are positions
in ``categories``, which keeps the file's order, and are mapped back on writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress, count, groupby
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.formats.segmentations import BROKEN, Rasterized, draw, rasterize_one, reason
from eachmask.data.images.read import read_image
from eachmask.data.sample import Sample
from eachmask.files.atomic import atomic
from eachmask.structures import RLE, Category, Instances, UserError
from eachmask.structures.rle_codec import offsets_of

_KNOWN = {"id", "name", "supercategory", "isthing", "keypoints", "skeleton"}
"""What a :class:`Category` holds of its entry."""
_ABSURD = 1e15
"""No coordinate is as large as this, px; whole numbers of JSON may be too large for arithmetic."""


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


class Records(Sequence[dict[str, Any]]):
    """The ``images`` block with all its fields, packed: one buffer of JSON, parsed entry by entry on use.

    Data-loader processes share it untouched, which they cannot a list of dicts: every look at an object of Python's
    writes its reference count, and the page it lies on is copied.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        rows = [json.dumps(record, separators=(",", ":")).encode() for record in records]
        self._text = np.frombuffer(b"".join(rows), np.uint8)
        self._offsets = offsets_of(np.array([len(row) for row in rows], np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """A copy of the entry; changing it changes nothing here."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]
        found: dict[str, Any] = json.loads(self._text[self._offsets[place] : self._offsets[place + 1]].tobytes())
        return found

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return int(self._text.nbytes + self._offsets.nbytes)


def write_coco(
    path: str | Path,
    samples: Sequence[tuple[str, Instances]],
    *,
    info: Mapping[str, Any] | None = None,
    image_fields: Sequence[Mapping[str, Any]] = (),
    category_fields: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write a data set, or predictions (then annotations carry ``score``); :class:`CocoDataset` reads it.

    Args:
        path: the JSON file; written whole or not at all.
        samples: (file name, instances) per image; image ids are 1, 2, ... All must share their categories.
        info: the ``info`` block.
        image_fields: further fields of each image's entry, such as LVIS's (:func:`read_image_fields`).
        category_fields: by category id, further fields of its entry (:func:`read_category_fields`).

    Raises:
        ValueError: ``image_fields`` are given, but not for each image.
    """
    if len(image_fields) not in (0, len(samples)):
        raise ValueError(f"fields of {len(image_fields)} images for {len(samples)} samples")
    more = category_fields or {}
    categories = next((instances.categories for _, instances in samples if instances.categories), ())
    head = {"info": dict(info or {}), "categories": [{**more.get(c.id, {}), **category_to_dict(c)} for c in categories]}
    with atomic(Path(path)) as file:  # entry by entry: they are never all in memory as text
        file.write(json.dumps(head)[:-1] + ', "images": [')
        for number, (name, instances) in enumerate(samples, start=1):
            height, width = instances.image_size
            own = image_fields[number - 1] if image_fields else {}
            entry = {**own, "id": number, "file_name": name, "width": width, "height": height}
            file.write((", " if number > 1 else "") + json.dumps(entry))
        file.write('], "annotations": [')
        ids = count(1)
        for number, (_, instances) in enumerate(samples, start=1):
            for row in to_annotations(instances):
                key = next(ids)
                file.write((", " if key > 1 else "") + json.dumps({"id": key, "image_id": number, **row}))
        file.write("]}")


def to_annotations(instances: Instances) -> list[dict[str, Any]]:
    """COCO dicts: category_id, segmentation (RLE), bbox, area, iscrowd, score.

    ``id`` and ``image_id`` are the caller's business. Boxes are the instances' own, to 1/100 px; scores have
    six digits.
    """
    boxes = instances.boxes.detach().cpu().double().numpy()
    # a copy, with which goes what it works out about itself: a whole data set passes through here
    masks = None if instances.masks is None else instances.masks.to_rle()[:]
    segmentations = None if masks is None else masks.to_coco()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) if masks is None else masks.area()
    ids = category_ids(instances)
    rows = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        row: dict[str, Any] = {"category_id": ids[i]}
        if segmentations is not None:
            row["segmentation"] = segmentations[i]
        row["bbox"] = [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)]
        row["area"] = round(float(areas[i]), 2) if masks is None else int(areas[i])
        row["iscrowd"] = int(instances.crowd[i])
        if instances.scores is not None:
            row["score"] = float(f"{float(instances.scores[i]):.6g}")
        if instances.keypoints is not None:
            row |= _keypoint_fields(instances.keypoints[i].detach().cpu().numpy())
        rows.append(row)
    return rows


def category_ids(instances: Instances) -> list[int]:
    """The data set's own category id of each instance; label + 1 where there are no categories."""
    labels = instances.labels.tolist()
    return [instances.categories[i].id if i < len(instances.categories) else i + 1 for i in labels]


def category_to_dict(category: Category) -> dict[str, Any]:
    """One entry of the ``categories`` block."""
    entry: dict[str, Any] = {"id": category.id, "name": category.name}
    if category.parent:
        entry["supercategory"] = category.parent
    if not category.is_thing:
        entry["isthing"] = 0
    if category.keypoints:
        skeleton = [[a + 1, b + 1] for a, b in category.skeleton]  # COCO counts from 1
        entry |= {"keypoints": list(category.keypoints), "skeleton": skeleton}
    return entry


def read_categories(rows: Any, path: Path) -> tuple[Category, ...]:
    """The ``categories`` block, in the file's order; ids must differ."""
    odd = next((row["id"] for row in rows if isinstance(row, dict) and whole_number(row.get("id", 0)) is None), None)
    if odd is not None:
        raise UserError(f"{path}: the id of a category must be a whole number, not {odd!r}: number the categories")
    try:
        found = tuple(_category(row) for row in rows)
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{path}: each category needs an id and a name") from None
    if len({c.id for c in found}) != len(found):
        raise UserError(f"{path}: two categories have the same id")
    return found


def _category(row: Mapping[str, Any]) -> Category:
    number, name, parent = int(row["id"]), str(row["name"]), str(row.get("supercategory") or "")
    is_thing = bool(row.get("isthing", True))
    names = row.get("keypoints")
    keypoints = tuple(str(point) for point in names) if isinstance(names, list) else ()
    return Category(number, name, parent, is_thing, keypoints, _skeleton(row.get("skeleton"), len(keypoints)))


def _skeleton(pairs: Any, num_keypoints: int) -> tuple[tuple[int, int], ...]:
    """COCO's pairs, counted from 1, as ours; a 0 says that a tool counted from 0. What is no pair is left out."""
    if not isinstance(pairs, list):
        return ()
    limbs = [p for p in pairs if isinstance(p, list) and len(p) == 2 and all(isinstance(i, int) for i in p)]
    first = 0 if any(0 in limb for limb in limbs) else 1
    known = range(first, num_keypoints + first)
    return tuple((a - first, b - first) for a, b in limbs if a in known and b in known)


def read_category_fields(rows: Any) -> dict[int, dict[str, Any]]:
    """What categories say besides what a :class:`Category` holds, by id: LVIS's ``frequency`` and ``synset`` ..."""
    return {int(row["id"]): {k: v for k, v in row.items() if k not in _KNOWN} for row in rows}


def read_image_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an image's entry says besides its id, name and size: LVIS's ``neg_category_ids`` (classes that are known to
    be absent) and ``not_exhaustive_category_ids`` (classes of which not every object is annotated), licenses, dates.

    In LVIS every class that is in neither list and not annotated is simply unknown in that image.
    """
    return {k: v for k, v in record.items() if k not in ("id", "file_name", "width", "height")}


def with_file_name(record: Any) -> Any:
    """An ``images`` entry that has a ``file_name``: LVIS v1 gives only ``coco_url``, whose end is folder and file."""
    if isinstance(record, dict) and "file_name" not in record and isinstance(record.get("coco_url"), str):
        return {**record, "file_name": "/".join(record["coco_url"].split("/")[-2:])}
    return record


def image_file(name: str, folders: Sequence[Path]) -> Path:
    """The image of that name in the first folder that has it, else where it should be.

    Some tools write the folder of the images into the name once more, and those of Windows a backslash behind it.
    """
    spellings = dict.fromkeys((name, name.replace("\\", "/")))
    places = [folder / spelling for folder in folders for spelling in spellings]
    return next((place for place in places if place.is_file()), places[0])


def whole_number(value: Any) -> int | None:
    """An id as a number, also where a tool wrote ``"3"`` or ``3.0``; None where it is none."""
    try:
        number = int(value)
        return number if not isinstance(value, float) or number == value else None
    except (TypeError, ValueError, OverflowError):
        return None


def is_crowd(row: Mapping[str, Any]) -> bool:
    """An annotation's ``iscrowd``, which some tools write as text."""
    return str(row.get("iscrowd", 0)).casefold() in ("1", "1.0", "true")


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has ``keys``; anything else is a UserError."""
    content = parsed(path)
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise UserError(f"{path} is no COCO instances file: it has no list named {missing[0]!r}")
    return dict(content)


def parsed(path: Path) -> Any:
    """What a JSON file holds; a UserError where it is none."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): if it was cut off, copy or export it again") from None


def text_of(path: Path) -> str:
    """A text file's content; a UserError where it has none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None


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


def box_of(row: Mapping[str, Any]) -> Sequence[float]:
    """An annotation's ``bbox``, x y w h; four NaN where it is not four numbers."""
    box = row.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {float, int}
    if not numbers or not all(abs(v) < _ABSURD for v in cast(list[float], box)):
        return (np.nan,) * 4
    return cast(list[float], box)


def packed_keypoints(kept: Sequence[dict[str, Any]]) -> NDArray[np.float32] | None:
    """(N, K, 3), zeros where an annotation has none; None where no annotation has keypoints."""
    num = max((len(a.get("keypoints") or ()) // 3 for a in kept), default=0)
    if not num:
        return None
    points = np.zeros((len(kept), num, 3), np.float32)
    for slot, annotation in zip(points, kept, strict=True):
        given = np.asarray(annotation.get("keypoints") or (), np.float32).reshape(-1, 3)
        slot[: len(given)] = given
    return points


def _keypoint_fields(points: NDArray[np.float32]) -> dict[str, Any]:
    """Places to 1/100 px, visibility or score to six digits."""
    flat = [v for x, y, s in points.tolist() for v in (round(x, 2), round(y, 2), float(f"{s:.6g}"))]
    return {"keypoints": flat, "num_keypoints": int((points[:, 2] > 0).sum())}


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
