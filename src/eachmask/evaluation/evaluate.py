"""Measure predictions against annotations: every number of the report, gathered in one value.

Two kinds of measures stand side by side and must not be mixed up. COCO's AP, boundary AP, the curves and the
confidence intervals rank *all* detections by score. What a user sees after choosing a score threshold (panoptic
quality, TP/(TP+FP+FN), Dice, counts, the confusion matrix ...) is measured at that threshold, which is said with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.data.formats.coco import CocoDataset
from eachmask.data.formats.coco_fields import is_crowd, whole_number
from eachmask.data.formats.coco_results import read_results
from eachmask.data.formats.segmentations import rasterize_one
from eachmask.evaluation.evaluation import Comparison, Evaluation
from eachmask.evaluation.gallery import best_and_worst
from eachmask.metrics import average_precision
from eachmask.metrics.bootstrap import difference, intervals
from eachmask.metrics.boundary_ap import boundary_matches
from eachmask.metrics.calibration import calibration
from eachmask.metrics.coco_ap import Kind, coco_evaluation, numbers
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
from eachmask.structures.coco import to_annotations


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Raises:
        UserError: a threshold outside 0..1, a negative number of draws or seed.
    """

    score: float = 0.5
    """Threshold of everything that is not ranked by score."""
    resamples: int = 200
    """Draws of images for the confidence intervals; 0 leaves them out."""
    boundary: bool = True
    """Also boundary AP, the slowest part."""
    seed: int = 0
    gallery: int = 5
    """So many of the best images and of the worst ones are drawn, where the files are there."""

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
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
    annotations, rows, mended = _measurable(dataset, rows)
    notes += mended + _crowded(targets)
    coco, errors = coco_numbers(annotations, rows)
    matches = match(predictions, targets, len(classes))
    per_class = average_precision.per_class(matches)
    boundary: dict[str, float] = {}
    if settings.boundary and "segm" in coco:
        banded = boundary_matches(predictions, targets, len(classes))
        boundary = average_precision.summary(banded)
        for row, other in zip(per_class, average_precision.per_class(banded), strict=True):
            row["boundary_ap"] = other["ap"]
    kept = [(p.filter(score=settings.score), t) for p, t in zip(predictions, targets, strict=True)]
    quality, qualities = at_threshold(kept, len(classes))
    for row, own in zip(per_class, qualities, strict=True):
        row["pq"] = own.pq
    sweeps = _sweeps(matches, classes)
    shown_from = sweeps[""].best_threshold if "" in sweeps else settings.score
    best, worst = best_and_worst(dataset, order, predictions, targets, shown_from, settings.gallery)
    return Evaluation(
        name=name or results.stem,
        data=str(dataset.path.name),
        num_images=len(targets),
        num_objects=sum(int((~t.crowd.cpu().numpy()).sum()) for t in targets),
        num_detections=sum(len(p) for p in predictions),
        classes=classes,
        score=settings.score,
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
        shown_from=shown_from,
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
    coco, _ = coco_numbers(*_measurable(dataset, rows)[:2])
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
    dataset: CocoDataset, rows: list[dict[str, Any]]
) -> tuple[Path | dict[str, Any], list[dict[str, Any]], list[str]]:
    """The annotation file, or its content mended where COCO's protocol needs more than it says; the results to it;
    and what was mended."""
    content = json.loads(dataset.path.read_text(encoding="utf-8-sig"))
    annotations = content["annotations"]
    changed, notes = _count_keypoints(annotations), []
    needed = ("area", "bbox", "iscrowd")
    missing = [name for name in needed if any(row.get(name) is None for row in annotations)]
    if missing:
        annotations = [
            {"image_id": record["id"], **row}
            for i, record in enumerate(dataset.records)
            for row in to_annotations(dataset.targets(i))
        ]
        notes.append(f"some annotations have no {' and no '.join(missing)}: taken from the masks (iscrowd: no)")
    ids = [row.get("id") for row in annotations]
    if missing or not _are_ids(ids) or len(set(ids)) < len(ids):
        annotations = [{**row, "id": number} for number, row in enumerate(annotations, start=1)]
        notes += [] if missing else ["some annotations have no id of their own that is a number: numbered anew"]
    if any(isinstance(row["iscrowd"], str) for row in annotations):
        annotations = [{**row, "iscrowd": int(is_crowd(row))} for row in annotations]
    changed |= annotations is not content["annotations"]
    content["annotations"] = annotations
    every = [*annotations, *rows]
    if not _are_ids([row[key] for row in every for key in ("image_id", "category_id")]) or not _are_ids(
        [row["id"] for key in ("images", "categories") for row in content[key]]
    ):
        return *_numbered(content, dataset, rows), notes
    return (content if changed else dataset.path), rows, notes


def _are_ids(values: Sequence[Any]) -> bool:
    """Whether hotcoco can read them: whole numbers from 0 on, of 64 bits."""
    return all(isinstance(value, int) and 0 <= value < 2**63 for value in values)


def _numbered(
    content: dict[str, Any], dataset: CocoDataset, rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results with images and classes numbered from 1, in the order of their own ids."""
    image = {dataset.records[i]["id"]: number for number, i in enumerate(_image_order(dataset), start=1)}
    label = {category.id: number for number, category in enumerate(dataset.categories, start=1)}

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "image_id": image[row["image_id"]], "category_id": label[whole_number(row["category_id"]) or 0]}

    images = [{**row, "id": image[row["id"]]} for row in content["images"]]
    categories = [{**row, "id": label[whole_number(row["id"]) or 0]} for row in content["categories"]]
    annotations = [plain(row) for row in content["annotations"]]
    mended = content | {"images": images, "categories": categories, "annotations": annotations}
    return mended, [plain(row) for row in rows]


def _count_keypoints(rows: list[dict[str, Any]]) -> bool:
    """Say of each annotation how many keypoints it shows, where COCO's protocol would want that; whether any had to be
    counted. An object that shows none is no miss."""
    uncounted = [row for row in rows if row.get("num_keypoints") is None]
    if not uncounted or not any(row.get("keypoints") for row in rows):
        return False
    for row in uncounted:
        row["num_keypoints"] = sum(v > 0 for v in (row.get("keypoints") or ())[2::3])
    return True
