"""Every number about predicted objects: gathered from values, one prediction and one target for each image.

Two kinds of measures stand side by side and must not be mixed up. COCO's AP, boundary AP, the curves and the
confidence intervals rank *all* detections by score. What a user sees after choosing a score threshold (panoptic
quality, TP/(TP+FP+FN), Dice, counts, the confusion matrix ...) is measured at that threshold, which is said with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from eachmask.data.stated import StatedResults, StatedTargets
from eachmask.data.targets import masks_of
from eachmask.files.sections import Section, json_ready, number_text
from eachmask.metrics import average_precision
from eachmask.metrics.bootstrap import Interval, difference, intervals
from eachmask.metrics.boundary_ap import boundary_ap, boundary_matches
from eachmask.metrics.calibration import Calibration, calibration
from eachmask.metrics.coco_ap import Kind, annotation_content, coco_evaluation, numbers
from eachmask.metrics.coco_matches import Matches, match
from eachmask.metrics.confusion import confusion_matrix
from eachmask.metrics.counting import counting
from eachmask.metrics.coverage import coverage
from eachmask.metrics.matching import Counts, matching_scores
from eachmask.metrics.panoptic_quality import Quality, mean_quality, panoptic_quality
from eachmask.metrics.partitions import partitions
from eachmask.metrics.semantic import mean_over_present, pixel_counts
from eachmask.metrics.sweep import Sweep, sweep
from eachmask.metrics.tide import tide
from eachmask.structures import Instances, Masks
from eachmask.structures.coco import to_annotations
from eachmask.tasks.measures import Measures
from eachmask.tasks.object_comparison import ObjectComparison
from eachmask.tasks.object_sections import sections_of
from eachmask.tasks.settings import Settings

Coco = tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]
"""COCO's numbers by kind, and the kinds of error."""


@dataclass(frozen=True, kw_only=True)
class ObjectMeasures(Measures):
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
    """PQ, SQ, RQ, mean IoU, Dice, SBD, differences in count, coverage, at the threshold; of one class also variation of
    information and Rand error."""
    matching: dict[str, dict[str, float]]
    """IoU -> TP, FP, FN, score, precision, recall, at the threshold."""
    tide: dict[str, dict[str, float]]
    confusion: list[list[int]]
    calibration: Calibration
    sweeps: dict[str, Sweep]
    """Class name -> precision and recall at every threshold; the key "" is all classes pooled."""
    intervals: dict[str, Interval]
    matches: Matches | None = field(default=None, repr=False, compare=False)
    """Which detection hit what, for comparisons."""
    remarks: tuple[str, ...] = ()
    """What a reader of the numbers should know."""

    def sections(self) -> tuple[Section, ...]:
        """COCO's numbers, scores, kinds of error, what a user sees, classes."""
        return sections_of(self)

    def values(self) -> dict[str, float]:
        """``ap`` (of masks), ``bbox.ap50``, ``boundary.ap``, ``pq``, ``dice``, ``ece``, ``matching.0.50`` ..."""
        flat = dict(self.main)
        for kind, group in (*self.coco.items(), ("boundary", self.boundary)):
            flat |= {f"{kind}.{key}": value for key, value in group.items()}
        flat |= self.quality | {"ece": self.calibration.ece}
        flat |= {f"matching.{iou}": row["score"] for iou, row in self.matching.items()}
        return flat

    @property
    def main(self) -> dict[str, float]:
        """COCO's numbers of masks, of boxes where there are no masks."""
        return next(self.coco[kind] for kind in ("segm", "bbox", "keypoints") if kind in self.coco)

    def headline(self) -> list[tuple[str, str]]:
        """AP first."""
        kind = "masks" if "segm" in self.coco else "boxes" if "bbox" in self.coco else ""
        points = self.coco.get("keypoints")
        interval = self.intervals.get("ap")
        known = interval is not None and math.isfinite(interval.low)
        sure = f" ({interval.low:.3f} to {interval.high:.3f})" if interval is not None and known else ""
        shown = [(f"AP of {kind}{sure}", self.main["ap"]), ("AP50", self.main["ap50"])] if kind else []
        if points is not None:
            shown = [("AP of keypoints", points["ap"]), ("their AP50", points["ap50"]), *shown]
        if self.boundary:
            shown.append(("boundary AP", self.boundary["ap"]))
        shown += [("PQ", self.quality["pq"]), ("Dice", self.quality["dice"])]
        return [(number_text(value), name) for name, value in shown]

    def about(self) -> str:
        """How many detections for how many objects."""
        return f"{self.num_detections:,} detections for {self.num_objects:,} objects"

    def summary(self) -> list[str]:
        """AP of each kind, what a user sees, the best threshold."""
        lines = [
            f"{kind:<10}" + "  ".join(f"{name} {group[name]:.3f}" for name in ("ap", "ap50", "ap75"))
            for kind, group in (*self.coco.items(), *([("boundary", self.boundary)] if self.boundary else []))
        ]
        if self.intervals and self.coco.keys() != {"keypoints"}:
            gap = self.intervals["ap"]
            lines.append(f"mask ap is between {gap.low:.3f} and {gap.high:.3f} on 95% of resampled sets of images")
        names = ("pq", "miou", "dice", "sbd", "abs_dic", "fg_dice", "weighted_coverage")
        lines.append(f"at score {self.score:g}: " + "  ".join(f"{n} {self.quality[n]:.3f}" for n in names))
        best = self.sweeps.get("")
        if best is not None:
            lines.append(f"best F1 {best.best_f1:.3f} at a score of {best.best_threshold:.2f}")
        return lines

    def notes(self) -> list[str]:
        """COCO's limit, where it is felt; odd scores; annotations without objects."""
        without = "the annotations hold no objects: there is nothing to be found, and AP is not defined"
        return [*([] if self.num_objects else [without]), *self.remarks]

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves of the classes, of which only the best points are kept."""
        plain = asdict(replace(self, matches=None, remarks=()))
        for name in ("matches", "remarks"):
            plain.pop(name)
        curves = plain.pop("sweeps")
        plain["sweep"] = curves.pop("", None)
        best = ("best_threshold", "best_f1")
        plain["best_thresholds"] = {name: {key: curve[key] for key in best} for name, curve in curves.items()}
        ready: dict[str, Any] = json_ready(plain)
        return ready

    def compared(self, other: ObjectMeasures, name: str, settings: Settings) -> ObjectComparison:
        """Mask AP on the same draws of images, and class by class."""
        assert self.matches is not None and other.matches is not None
        gap = difference(self.matches, other.matches, max(settings.resamples, 1), settings.seed)
        per_class = average_precision.per_class(other.matches)
        return ObjectComparison(name=name, others=other.values(), coco=other.coco, difference=gap, per_class=per_class)


def measure_objects(
    predictions: Sequence[Instances], targets: Sequence[Instances], settings: Settings
) -> ObjectMeasures:
    """Measure the objects of all images. COCO's own numbers are those of what files say to the last digit, where
    predictions or targets are :class:`~eachmask.data.stated.StatedResults` or ``StatedTargets``."""
    classes = [category.name for category in targets[0].categories] or ["object"]
    numbers_of, errors = coco_of_values(predictions, targets, len(classes))
    predictions, targets = [_masked(_scored(found)) for found in predictions], [_masked(some) for some in targets]
    matches = match(predictions, targets, len(classes))
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
        matches=matches,
        remarks=tuple(_odd_scores(predictions) + _crowded(targets)),
    )


def _scored(found: Instances) -> Instances:
    """Predictions without scores are sure ones."""
    return found if found.scores is not None else replace(found, scores=torch.ones(len(found)))


def _masked(some: Instances) -> Instances:
    """Where masks are measured, objects without one are their whole boxes."""
    return some if some.masks is not None else replace(some, masks=masks_of(some))


def _odd_scores(predictions: Sequence[Instances]) -> list[str]:
    if any(bool((found.scores > 1).any()) for found in predictions if found.scores is not None):
        return ["some scores are above 1: calibration, curves and --score expect 0 to 1"]
    return []


def _crowded(targets: Sequence[Instances]) -> list[str]:
    """COCO's limit, where it is felt."""
    most = [int(np.bincount(t.labels.cpu().numpy()[~t.crowd.cpu().numpy()]).max(initial=0)) for t in targets]
    num = sum(n > 100 for n in most)
    if not num:
        return []
    return [f"{num} images have more than 100 objects of a class (up to {max(most)}): AP counts 100 detections only"]


def coco_of_values(predictions: Sequence[Instances], targets: Sequence[Instances], num_classes: int) -> Coco:
    """COCO's numbers, images and classes numbered from 1."""
    areas = targets.areas if isinstance(targets, StatedTargets) else None
    content = annotation_content([_masked(some) for some in targets], num_classes, areas)
    return coco_numbers(content, predictions.rows if isinstance(predictions, StatedResults) else _rows(predictions))


def _rows(predictions: Sequence[Instances]) -> list[dict[str, Any]]:
    return [
        {**row, "image_id": number, "category_id": label + 1}
        for number, found in enumerate(map(_scored, predictions), start=1)
        for row, label in zip(to_annotations(found), found.labels.tolist(), strict=True)
    ]


def coco_numbers(annotations: dict[str, Any], rows: list[dict[str, Any]]) -> Coco:
    """COCO's numbers of all kinds that the results have, and the error kinds of the first of them.

    A mask's size is the mask's: given boxes too, pycocotools would take the box's area for it, and so they are
    left out (as Detectron2 does).

    Args:
        annotations: content of a COCO file, every annotation with area, bbox and iscrowd.
        rows: results.
    """
    kinds: list[tuple[Kind, tuple[str, ...]]] = []
    if not rows or any("bbox" in row or "segmentation" in row for row in rows):
        kinds.append(("bbox", ("segmentation", "keypoints")))
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
    parts = partitions(masks) if num_classes == 1 else {}
    return mean_quality(qualities) | means | counting(masks) | coverage(masks) | parts, qualities


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
