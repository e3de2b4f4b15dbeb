"""Predicted objects kept as COCO's results, and results files of any tool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eachmask.data.classes import Classes
from eachmask.data.formats.coco_results import Results, read_results, results_of
from eachmask.data.formats.segmentations import is_compressed, rasterize_one
from eachmask.data.formats.yolo_results import read_yolo_results
from eachmask.data.samples import Samples
from eachmask.data.split import Split
from eachmask.data.stated import StatedResults
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.coco import category_to_dict, to_annotations
from eachmask.tasks.task import Predictions, Storage


def dump(found: Instances) -> dict[str, Any]:
    """COCO's annotations of one image, category ids of the model."""
    return {"annotations": to_annotations(found)}


def load(
    bodies: Sequence[dict[str, Any]], data: Samples[Instances], known: tuple[Category, ...], classes: Classes
) -> Predictions[Instances]:
    """Results in the data's classes; what has none is left out and counted."""
    split = _split(data)
    rows = [{"image_id": split.image_id(i), **row} for i, body in enumerate(bodies) for row in body["annotations"]]
    content = {"annotations": rows, "categories": [category_to_dict(category) for category in known]}
    found = results_of(content, split, "the predictions", classes)
    return Predictions(numbered(found, split), found.notes, {"predictions.json": json.dumps(found.rows)})


def read(path: Path, data: Samples[Instances], classes: Classes) -> Predictions[Instances]:
    """A results file in COCO's format, or a folder of YOLO's texts.

    Raises:
        UserError: as :func:`~eachmask.data.formats.coco_results.read_results` and
            :func:`~eachmask.data.formats.yolo_results.read_yolo_results`.
    """
    split = _split(data)
    found = (read_yolo_results if path.is_dir() else read_results)(path, split, classes)
    return Predictions(numbered(found, split), found.notes)


def numbered(found: Results, data: Split) -> StatedResults:
    """Images numbered from 1 in their order, classes by label + 1; outlines and other spellings as the run
    lengths that COCO's tools take."""
    image = {data.image_id(i): i for i in range(len(data))}
    label = {category.id: number for number, category in enumerate(data.categories, start=1)}
    rows = []
    for row in found.rows:
        place = image[row["image_id"]]
        new = {**row, "image_id": place + 1, "category_id": label[row["category_id"]]}
        if row.get("segmentation") and not is_compressed(row["segmentation"]):
            new["segmentation"] = rasterize_one([row], data.image_size(place)).masks.to_coco()[0]
        rows.append(new)
    return StatedResults(found.instances, rows)


def _split(data: Samples[Instances]) -> Split:
    if not isinstance(data, Split):
        raise UserError("objects are measured on a data set that was read: eachmask.data.read(...)")
    return data


STORAGE: Storage[Instances] = Storage(dump, load, read)
