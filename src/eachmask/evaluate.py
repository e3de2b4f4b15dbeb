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

from eachmask.data.coco import CocoDataset, read_results, to_annotations
from eachmask.evaluation import Comparison, Evaluation
from eachmask.metrics import average_precision
from eachmask.metrics.bootstrap import difference, intervals
from eachmask.metrics.boundary_ap import boundary_matches
from eachmask.metrics.calibration import calibration
from eachmask.metrics.coco_ap import Kind, coco_evaluation, numbers
from eachmask.metrics.coco_matches import Matches, crowd_of, labels_of, match
from eachmask.metrics.confusion import confusion_matrix
from eachmask.metrics.counting import counting
from eachmask.metrics.coverage import coverage
from eachmask.metrics.matching import Counts, matching_scores
from eachmask.metrics.panoptic_quality import Quality, mean_quality, panoptic_quality
from eachmask.metrics.semantic import mean_over_present, pixel_counts
from eachmask.metrics.sweep import Sweep, sweep
from eachmask.metrics.tide import tide
from eachmask.structures import Instances, Masks, UserError


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    score: float = 0.5
    """Threshold of everything that is not ranked by score."""
    resamples: int = 200
    """Draws of images for the confidence intervals; 0 leaves them out."""
    boundary: bool = True
    """Also boundary AP, the slowest part."""
    seed: int = 0


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
    targets = [dataset.targets(i) for i in _image_order(dataset)]
    classes = [category.name for category in dataset.categories]
    predictions, rows, notes = _read(results, dataset)
    annotations, mended = _complete(dataset)
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
    return Evaluation(
        name=name or results.stem,
        data=str(dataset.path.name),
        num_images=len(targets),
        num_objects=sum(int((~crowd_of(t)).sum()) for t in targets),
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
    return [(p.masks, t.masks[~crowd_of(t)]) for p, t in pairs if p.masks is not None and t.masks is not None]


def _sweeps(matches: Matches, classes: Sequence[str]) -> dict[str, Sweep]:
    found = {"": sweep(matches)} | {name: sweep(matches, label) for label, name in enumerate(classes)}
    return {name: curve for name, curve in found.items() if curve is not None}


def _comparison(
    path: Path, dataset: CocoDataset, targets: Sequence[Instances], matches: Matches, settings: Settings
) -> Comparison:
    predictions, rows, _ = _read(path, dataset)
    others = match(predictions, targets, len(dataset.categories))
    coco, _ = coco_numbers(_complete(dataset)[0], rows)
    gap = difference(matches, others, max(settings.resamples, 1), settings.seed)
    return Comparison(path.stem, coco, gap, average_precision.per_class(others))


def _read(path: Path, dataset: CocoDataset) -> tuple[list[Instances], list[dict[str, Any]], list[str]]:
    in_file_order = read_results(path, dataset)
    predictions = [in_file_order[i] for i in _image_order(dataset)]
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    rows: list[dict[str, Any]] = content["annotations"] if isinstance(content, dict) else content
    notes = []
    if rows and not any("segmentation" in row for row in rows):
        notes.append("the results have no masks: where masks are measured, each is its whole box")
    if any("score" not in row for row in rows):
        raise UserError(f"{path}: results need a score each; annotations are not predictions")
    return predictions, rows, notes


def _crowded(targets: Sequence[Instances]) -> list[str]:
    """COCO's limit, where it is felt."""
    most = [int(np.bincount(labels_of(t)[~crowd_of(t)]).max(initial=0)) for t in targets]
    num = sum(n > 100 for n in most)
    if not num:
        return []
    return [f"{num} images have more than 100 objects of a class (up to {max(most)}): AP counts 100 detections only"]


def _image_order(dataset: CocoDataset) -> list[int]:
    """By image id: so COCO's tools break ties of scores."""
    return sorted(range(len(dataset)), key=lambda i: int(dataset.records[i]["id"]))


def _complete(dataset: CocoDataset) -> tuple[Path | dict[str, Any], list[str]]:
    """The annotation file, or its content made whole where fields that COCO's protocol needs are missing."""
    content = json.loads(dataset.path.read_text(encoding="utf-8-sig"))
    needed = ("id", "area", "bbox", "iscrowd")
    missing = [name for name in needed if any(row.get(name) is None for row in content["annotations"])]
    if not missing:
        return (content if _count_keypoints(content["annotations"]) else dataset.path), []
    rows = [
        {"image_id": record["id"], **row}
        for i, record in enumerate(dataset.records)
        for row in to_annotations(dataset.targets(i))
    ]
    content["annotations"] = [{**row, "id": number} for number, row in enumerate(rows, start=1)]
    return content, [f"some annotations have no {' and no '.join(missing)}: taken from the masks (iscrowd: no)"]


def _count_keypoints(rows: list[dict[str, Any]]) -> bool:
    """Say of each annotation how many keypoints it shows, where COCO's protocol would want that; whether any had to be
    counted. An object that shows none is no miss."""
    uncounted = [row for row in rows if row.get("num_keypoints") is None]
    if not uncounted or not any(row.get("keypoints") for row in rows):
        return False
    for row in uncounted:
        row["num_keypoints"] = sum(v > 0 for v in (row.get("keypoints") or ())[2::3])
    return True
