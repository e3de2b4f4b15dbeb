"""Every number about predicted objects: gathered from values, one prediction and one target for each image.

Two kinds of measures stand side by side and must not be mixed up. COCO's AP, boundary AP, the curves and the
confidence intervals rank *all* detections by score. What a user sees after choosing a score threshold (panoptic
quality, TP/(TP+FP+FN), Dice, counts, the confusion matrix ...) is measured at that threshold, which is said with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from eachmask.metrics import average_precision
from eachmask.metrics.bootstrap import Interval, intervals
from eachmask.metrics.boundary_ap import boundary_ap, boundary_matches
from eachmask.metrics.calibration import Calibration, calibration
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
from eachmask.structures import Instances, Masks
from eachmask.structures.coco import to_annotations
from eachmask.tasks.settings import Settings

Coco = tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]
"""COCO's numbers by kind, and the kinds of error."""


@dataclass(frozen=True, kw_only=True)
class ObjectMeasures:
    """All measures of predicted objects; fractions 0..1, NaN where there was nothing to measure."""

    num_images: int
    num_objects: int
    num_detections: int
    classes: list[str]
    score: float
    """Threshold of what is not ranked by score."""
    coco: dict[str, dict[str, float]]
    """``segm``, ``bbox``, ``keypoints`` -> COCO's numbers."""
    boundary: dict[str, float]
    per_class: list[dict[str, float]]
    quality: dict[str, float]
    """PQ, SQ, RQ, mean IoU, Dice, SBD, differences in count, coverage, at the threshold."""
    matching: dict[str, dict[str, float]]
    """IoU -> TP, FP, FN, score, precision, recall, at the threshold."""
    tide: dict[str, dict[str, float]]
    confusion: list[list[int]]
    calibration: Calibration
    sweeps: dict[str, Sweep]
    """Class name -> precision and recall at every threshold; the key "" is all classes pooled."""
    intervals: dict[str, Interval]


def measure_objects(
    predictions: Sequence[Instances],
    targets: Sequence[Instances],
    settings: Settings,
    *,
    coco: Coco | None = None,
    matches: Matches | None = None,
) -> ObjectMeasures:
    """Measure the objects of all images.

    Args:
        coco: COCO's numbers where they are known from files that say more than the values (sizes of objects).
        matches: of the same values, where they are known.
    """
    classes = [category.name for category in targets[0].categories] or ["object"]
    predictions = [_scored(found) for found in predictions]
    numbers_of, errors = coco_of_values(predictions, targets, len(classes)) if coco is None else coco
    matches = match(predictions, targets, len(classes)) if matches is None else matches
    per_class = average_precision.per_class(matches)
    boundary: dict[str, float] = {}
    if settings.boundary and "segm" in numbers_of:
        banded = boundary_matches(predictions, targets, len(classes))
        boundary = boundary_ap(predictions, targets, len(classes), banded)
        for row, other in zip(per_class, average_precision.per_class(banded), strict=True):
            row["boundary_ap"] = other["ap"]
    sweeps = _sweeps(matches, classes)
    shown_from = sweeps[""].best_threshold if "" in sweeps else 0.0
    score = shown_from if settings.score is None else settings.score
    kept = [(p.filter(score=score), t) for p, t in zip(predictions, targets, strict=True)]
    quality, qualities = at_threshold(kept, len(classes))
    for row, own in zip(per_class, qualities, strict=True):
        row["pq"] = own.pq
    return ObjectMeasures(
        num_images=len(targets),
        num_objects=sum(int((~target.crowd).sum()) for target in targets),
        num_detections=sum(len(found) for found in predictions),
        classes=classes,
        score=score,
        coco=numbers_of,
        boundary=boundary,
        per_class=per_class,
        quality=quality,
        matching=_matching(kept),
        tide=errors,
        confusion=confusion_matrix(kept, len(classes)).tolist(),
        calibration=calibration(matches),
        sweeps=sweeps,
        intervals=intervals(matches, settings.resamples, settings.seed) if settings.resamples else {},
    )


def _scored(found: Instances) -> Instances:
    """Predictions without scores are sure ones."""
    return found if found.scores is not None else replace(found, scores=torch.ones(len(found)))


def coco_of_values(predictions: Sequence[Instances], targets: Sequence[Instances], num_classes: int) -> Coco:
    """COCO's numbers of values, images and classes numbered from 1."""
    rows = [
        {**row, "image_id": number, "category_id": label + 1}
        for number, found in enumerate(predictions, start=1)
        for row, label in zip(to_annotations(found), found.labels.tolist(), strict=True)
    ]
    return coco_numbers(annotation_content(targets, num_classes), rows)


def coco_numbers(annotations: dict[str, Any], rows: list[dict[str, Any]]) -> Coco:
    """COCO's numbers of all kinds that the results have, and the error kinds of the first of them.

    A mask's size is the mask's: given boxes too, pycocotools would take the box's area for it, and so they are
    left out (as Detectron2 does).

    Args:
        annotations: content of a COCO file, every annotation with area, bbox and iscrowd.
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
