"""Measure predictions against annotations: every number of the report, gathered in one value.

Two kinds of measures stand side by side and must not be mixed up. COCO's AP, boundary AP, the curves and the
confidence intervals rank *all* detections by score. What a user sees after choosing a score threshold (panoptic
quality, TP/(TP+FP+FN), Dice, counts, the confusion matrix ...) is measured at that threshold, which is said with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from eachmask.metrics.bootstrap import difference, intervals
from eachmask.metrics.boundary_ap import boundary_matches
from eachmask.metrics.calibration import calibration
from eachmask.metrics.coco_ap import Kind, annotation_content, coco_evaluation, numbers
from eachmask.metrics.coco_matches import Matches, match
from eachmask.metrics.confusion import confusion_matrix
from eachmask.metrics.counting import counting
from eachmask.metrics.coverage import coverage
from eachmask.metrics.matching import Counts, matching_scores
from eachmask.metrics.panoptic_quality import Quality, mean_quality, panoptic_quality
from eachmask.metrics.semantic import mean_over_present, pixel_counts
from eachmask.metrics.sweep import Sweep, sweep
from eachmask.metrics.tide import tide
from eachmask.structures import Instances, Masks, UserError

MAX_AREA = 1e15
"""No object is as large as this, px^2."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Raises:
        UserError: a threshold outside 0..1, a negative number of draws or seed.
    """

    score: float | None = None
    """Threshold of everything that is not ranked by score; None: that of the best F1 on these images."""
    resamples: int = 200
    """Draws of images for the confidence intervals; 0 leaves them out."""
    boundary: bool = True
    """Also boundary AP, the slowest part."""
    seed: int = 0
    gallery: int = 5
    """So many of the best images and of the worst ones are drawn, where the files are there."""

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise UserError(f"the score threshold must lie in 0..1, not {self.score:g}")
        for name, number in (
            ("number of resamples", self.resamples), ("seed", self.seed), ("number of images shown", self.gallery)
        ):  # fmt: skip
            if number < 0:
                raise UserError(f"the {name} must not be negative, but is {number}")


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
    classes = [category.name for category in dataset.categories]
    predictions, rows, notes = _read(results, dataset)
    annotations, rows, completed = _measurable(dataset, order, targets, rows)
    notes += completed + _crowded(targets)
    coco, errors = coco_numbers(annotations, rows)
    matches = match(predictions, targets, len(classes))
    per_class = average_precision.per_class(matches)
    boundary: dict[str, float] = {}
    if settings.boundary and "segm" in coco:
        banded = boundary_matches(predictions, targets, len(classes))
        boundary = average_precision.summary(banded)
        for row, other in zip(per_class, average_precision.per_class(banded), strict=True):
            row["boundary_ap"] = other["ap"]
    sweeps = _sweeps(matches, classes)
    shown_from = sweeps[""].best_threshold if "" in sweeps else 0.0
    score = shown_from if settings.score is None else settings.score
    kept = [(p.filter(score=score), t) for p, t in zip(predictions, targets, strict=True)]
    quality, qualities = at_threshold(kept, len(classes))
    for row, own in zip(per_class, qualities, strict=True):
        row["pq"] = own.pq
    best, worst = best_and_worst(dataset, order, predictions, targets, score, settings.gallery)
    return Evaluation(
        name=name or results.stem,
        data=str(dataset.path.name),
        num_images=len(targets),
        num_objects=sum(int((~t.crowd.cpu().numpy()).sum()) for t in targets),
        num_detections=sum(len(p) for p in predictions),
        classes=classes,
        score=score,
        coco=coco,
        boundary=boundary,
        per_class=per_class,
        quality=quality,
        matching=_matching(kept),
        tide=errors,
        confusion=confusion_matrix(kept, len(classes)).tolist(),
        calibration=calibration(matches),
        sweeps=sweeps,
        intervals=intervals(matches, settings.resamples, settings.seed) if settings.resamples else {},
        comparison=None if compare is None else _comparison(compare, dataset, targets, matches, settings),
        notes=notes + [f"left out: {reason}" for reason in dataset.dropped[:20]],
        published=published or {},
        best=best,
        worst=worst,
        shown_from=score,
    )


def coco_numbers(
    annotations: Path | dict[str, Any], rows: list[dict[str, Any]]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """COCO's numbers of all kinds that the results have, and the error kinds of the first of them.

    A mask's size is the mask's: given boxes too, pycocotools would take the box's area for it, and so they are
    left out (as Detectron2 does).

    Args:
        annotations: COCO file or content, every annotation with area, bbox and iscrowd.
        rows: results.
    """
    kinds: list[tuple[Kind, tuple[str, ...]]] = [("bbox", ("segmentation", "keypoints"))]
    if not rows or any("segmentation" in row for row in rows):
        kinds.insert(0, ("segm", ("bbox", "area", "keypoints")))
    if any(row.get("keypoints") for row in rows):
        kinds.append(("keypoints", ("bbox", "segmentation", "area")))
    found: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for kind, others in kinds:
        plain = [{key: value for key, value in row.items() if key not in others} for row in rows]
        if kind == "bbox" and any("bbox" not in row for row in rows):
            plain = rows  # the box of each mask, as pycocotools takes it
        if kind == "keypoints":
            plain = [row for row in plain if row.get("keypoints")]
        evaluation = coco_evaluation(annotations, plain, kind)
        values = numbers(evaluation, kind)
        if kind != "keypoints" or not all(math.isnan(value) for value in values.values()):
            found[kind] = values
        errors = errors or tide(evaluation)
    return found, errors


def at_threshold(
    pairs: Sequence[tuple[Instances, Instances]], num_classes: int
) -> tuple[dict[str, float], list[Quality]]:
    """Measures of what is left after thresholding, and panoptic quality of each class.

    Args:
        pairs: (predictions, targets) of each image, low scores already removed.
    """
    qualities = panoptic_quality(pairs, num_classes)
    pixels = pixel_counts(pairs, num_classes)
    masks = _plain_masks(pairs)
    means = {"miou": mean_over_present(pixels.iou), "dice": mean_over_present(pixels.dice)}
    return mean_quality(qualities) | means | counting(masks) | coverage(masks), qualities


def _matching(pairs: Sequence[tuple[Instances, Instances]]) -> dict[str, dict[str, float]]:
    def row(counts: Counts) -> dict[str, float]:
        return asdict(counts) | {"score": counts.score, "precision": counts.precision, "recall": counts.recall}

    return {f"{iou:.2f}": row(counts) for iou, counts in matching_scores(_plain_masks(pairs)).items()}


def _plain_masks(pairs: Sequence[tuple[Instances, Instances]]) -> list[tuple[Masks, Masks]]:
    """Without classes, and without crowd regions."""
    return [(p.masks, t.masks[~t.crowd.cpu().numpy()]) for p, t in pairs if p.masks is not None and t.masks is not None]


def _sweeps(matches: Matches, classes: Sequence[str]) -> dict[str, Sweep]:
    found = {"": sweep(matches)} | {name: sweep(matches, label) for label, name in enumerate(classes)}
    return {name: curve for name, curve in found.items() if curve is not None}


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
