"""Measure a results file against annotations: files become values here, and values are measured by the task.

Nothing of a file itself reaches COCO's tools: annotations and results are written anew for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.coco import CocoDataset
from eachmask.data.formats.coco_fields import read_json, whole_number
from eachmask.data.formats.coco_results import read_results
from eachmask.data.formats.segmentations import rasterize_one
from eachmask.evaluation.evaluation import Comparison, Evaluation
from eachmask.evaluation.gallery import best_and_worst
from eachmask.metrics import average_precision
from eachmask.metrics.bootstrap import difference
from eachmask.metrics.coco_ap import annotation_content
from eachmask.metrics.coco_matches import Matches, match
from eachmask.structures import Instances, UserError
from eachmask.tasks.object_measures import coco_numbers, measure_objects
from eachmask.tasks.settings import Settings

MAX_AREA = 1e15
"""No object is as large as this, px^2."""


def evaluate(
    dataset: CocoDataset,
    results: Path,
    *,
    name: str = "",
    settings: Settings | None = None,
    compare: Path | None = None,
    published: dict[str, float] | None = None,
) -> Evaluation:
    """Measure a results file.

    Args:
        dataset: the annotations.
        results: COCO results (list of dicts with image_id, category_id, score and segmentation, bbox or keypoints).
        name: of the model, for the report; default is the file's.
        compare: results of another model on the same images.
        published: scores by the model's makers, only passed on.

    Raises:
        UserError: broken files, or results of other images.
    """
    settings = settings or Settings()
    if not len(dataset):
        raise UserError(f"{dataset.path} has no images to measure on")
    order = _image_order(dataset)
    targets = [dataset.targets(i) for i in order]
    predictions, rows, notes = _read(results, dataset)
    annotations, rows, completed = _measurable(dataset, order, targets, rows)
    notes += completed + _crowded(targets)
    matches = match(predictions, targets, len(dataset.categories))
    found = measure_objects(predictions, targets, settings, coco=coco_numbers(annotations, rows), matches=matches)
    best, worst = best_and_worst(dataset, order, predictions, targets, found.score, settings.gallery)
    return Evaluation(
        **{field.name: getattr(found, field.name) for field in fields(found)},
        name=name or results.stem,
        data=str(dataset.path.name),
        comparison=None if compare is None else _comparison(compare, dataset, targets, matches, settings),
        notes=notes + [f"left out: {reason}" for reason in dataset.dropped[:20]],
        published=published or {},
        best=best,
        worst=worst,
    )


def _comparison(
    path: Path, dataset: CocoDataset, targets: Sequence[Instances], matches: Matches, settings: Settings
) -> Comparison:
    predictions, rows, _ = _read(path, dataset)
    others = match(predictions, targets, len(dataset.categories))
    coco, _ = coco_numbers(*_measurable(dataset, _image_order(dataset), targets, rows)[:2])
    gap = difference(matches, others, max(settings.resamples, 1), settings.seed)
    return Comparison(path.stem, coco, gap, average_precision.per_class(others))


def _read(path: Path, dataset: CocoDataset) -> tuple[list[Instances], list[dict[str, Any]], list[str]]:
    found = read_results(path, dataset.split)
    notes = list(found.notes)
    if any(row["score"] > 1 for row in found.rows):
        notes.append("some scores are above 1: calibration, curves and --score expect 0 to 1")
    return [found.instances[i] for i in _image_order(dataset)], _as_run_lengths(found.rows, dataset), notes


def _as_run_lengths(rows: list[dict[str, Any]], dataset: CocoDataset) -> list[dict[str, Any]]:
    """The results with outlines as masks: COCO's tools take the size and the box of a result's run lengths alone."""
    if not any(isinstance(row.get("segmentation"), list) for row in rows):
        return rows
    sizes = {record["id"]: (int(record["height"]), int(record["width"])) for record in dataset.records}
    return [
        {**row, "segmentation": rasterize_one([row], sizes[row["image_id"]]).masks.to_coco()[0]}
        if isinstance(row.get("segmentation"), list)
        else row
        for row in rows
    ]


def _crowded(targets: Sequence[Instances]) -> list[str]:
    """COCO's limit, where it is felt."""
    most = [int(np.bincount(t.labels.cpu().numpy()[~t.crowd.cpu().numpy()]).max(initial=0)) for t in targets]
    num = sum(n > 100 for n in most)
    if not num:
        return []
    return [f"{num} images have more than 100 objects of a class (up to {max(most)}): AP counts 100 detections only"]


def _image_order(dataset: CocoDataset) -> list[int]:
    """By image id: so COCO's tools break ties of scores."""
    ids = [record["id"] for record in dataset.records]
    key = int if all(whole_number(i) is not None for i in ids) else str
    return sorted(range(len(ids)), key=lambda i: key(ids[i]))


def _measurable(
    dataset: CocoDataset, order: Sequence[int], targets: Sequence[Instances], rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Annotations and results as COCO's tools want them, images and classes numbered from 1; and what to note.

    Nothing of the annotation file itself reaches those tools: what others write into ``info``, ``licenses`` or dates is
    no business of theirs, and an object is what all other measures see of it, too. Only its size is that of the file.
    """
    raw = read_json(dataset.path, ("images", "annotations", "categories"))["annotations"]
    missing = [name for name in ("area", "bbox", "iscrowd") if any(row.get(name) is None for row in raw)]
    areas = None if missing else _areas_of(raw, [dataset.split.image_id(i) for i in order], targets)
    image = {_key(dataset.split.image_id(i)): number for number, i in enumerate(order, start=1)}
    label = {category.id: number for number, category in enumerate(dataset.categories, start=1)}
    plain = [
        {**row, "image_id": image[_key(row["image_id"])], "category_id": label[whole_number(row["category_id"]) or 0]}
        for row in rows
    ]
    content = annotation_content(targets, len(dataset.categories), areas)
    return content, plain, _notes_on(raw, missing)


def _areas_of(
    raw: Sequence[dict[str, Any]], ids: Sequence[Any], targets: Sequence[Instances]
) -> list[NDArray[np.float64]]:
    """The sizes that the file gives the objects of each image; their masks' where it gives others than numbers."""
    stated: dict[Any, list[Any]] = {}
    for row in raw:
        stated.setdefault(_key(row.get("image_id")), []).append(row["area"])
    found = []
    for own, target in zip(ids, targets, strict=True):
        areas = stated.get(_key(own), [])
        numbers = all(type(area) in (int, float) and 0 <= area < MAX_AREA for area in areas)
        if not numbers or len(areas) != len(target):  # what covers no pixel is left out of the targets
            areas = [] if target.masks is None else target.masks.area().tolist()
        found.append(np.array(areas, np.float64))
    return found


def _notes_on(raw: Sequence[dict[str, Any]], missing: Sequence[str]) -> list[str]:
    """What was filled in where the file says less than COCO's protocol needs."""
    notes = []
    if missing:
        notes.append(f"some annotations have no {' and no '.join(missing)}: taken from the masks (iscrowd: no)")
    ids = [row.get("id") for row in raw]
    if not missing and (not _are_ids(ids) or len(set(ids)) < len(ids)):
        notes.append("some annotations have no id of their own that is a number: numbered anew")
    boxed = sum(row.get("segmentation") in (None, [], [[]]) and row.get("bbox") is not None for row in raw)
    if boxed:
        which = "the annotations" if boxed == len(raw) else f"{boxed} of {len(raw)} annotations"
        notes.append(f"{which} have no mask: where masks are measured, each is its whole box")
    return notes


def _key(value: Any) -> Any:
    """An image's id, whichever way it is spelled: some tools write 3 here and "3" there."""
    number = whole_number(value)
    return str(value) if number is None else number


def _are_ids(values: Sequence[Any]) -> bool:
    """Whether hotcoco can read them: whole numbers from 0 on, of 64 bits."""
    return all(isinstance(value, int) and 0 <= value < 2**63 for value in values)
