"""COCO files written: data sets, and predictions (then annotations carry ``score``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.images.files import copy_image
from eachmask.data.split import Split
from eachmask.files.atomic import atomic
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Category, Instances

T = TypeVar("T")


def write_coco(
    path: str | Path,
    samples: Sequence[tuple[str, Instances]],
    *,
    info: Mapping[str, Any] | None = None,
    image_fields: Sequence[Mapping[str, Any]] = (),
    category_fields: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write a data set, or predictions (then annotations carry ``score``).

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


def write_coco_folder(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write instances_SPLIT.json and images/SPLIT; the format holds everything."""
    target.mkdir(parents=True, exist_ok=True)
    for name, image in progress("writing", list(data.images())):
        copy_image(image, target / "images" / name / image.name)
    for name, split in data.splits.items():
        if len(split):
            samples = _PerImage(split, lambda own, i: (own.names[i], own.targets(i)))
            path, more = target / f"instances_{name}.json", _PerImage(split, Split.fields)
            write_coco(path, samples, image_fields=more, category_fields=data.category_fields)
    return []


class _PerImage(Sequence[T]):
    """Something of each image of a split, unpacked one image at a time."""

    def __init__(self, split: Split, of: Callable[[Split, int], T]) -> None:
        self._split, self._of = split, of

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._of(self._split, index)


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


def _keypoint_fields(points: NDArray[np.float32]) -> dict[str, Any]:
    """Places to 1/100 px, visibility or score to six digits."""
    flat = [v for x, y, s in points.tolist() for v in (round(x, 2), round(y, 2), float(f"{s:.6g}"))]
    return {"keypoints": flat, "num_keypoints": int((points[:, 2] > 0).sum())}
