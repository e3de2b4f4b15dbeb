"""The sections of an evaluation of objects: what was measured, as tables and charts."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING

from eachmask.files.sections import Chart, Section, Table, number_text
from eachmask.metrics.tide import KINDS
from eachmask.tasks.object_charts import GUIDES, confusion_chart, error_chart, reliability_chart, sweep_chart

if TYPE_CHECKING:
    from eachmask.tasks.object_measures import ObjectMeasures

KIND_WORDS = {"segm": "masks", "bbox": "boxes", "keypoints": "keypoints", "boundary": "boundaries"}
_COLUMNS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
_QUALITY = {
    "pq": "panoptic quality (PQ), mean of classes",
    "sq": "its segmentation quality (SQ): IoU of what matched",
    "rq": "its recognition quality (RQ): F1 at IoU 0.5",
    "miou": "IoU of each class's pixels, mean (mIoU)",
    "dice": "Dice of each class's pixels, mean",
    "sbd": "symmetric best Dice (SBD)",
    "dic": "difference in count, objects per image (DiC)",
    "abs_dic": "absolute difference in count (|DiC|)",
    "fg_dice": "Dice of all objects together (foreground Dice)",
    "coverage": "coverage of objects",
    "weighted_coverage": "coverage weighted by area",
    "vi_split": "variation of information: objects in parts, bits",
    "vi_merge": "variation of information: objects joined, bits",
    "rand_error": "adapted Rand error",
}


def sections_of(found: ObjectMeasures) -> tuple[Section, ...]:
    """COCO's numbers, scores, kinds of error, what a user sees, classes."""
    return (_coco(found), _curves(found), _errors(found), _thresholded(found), _classes(found))


def _coco(found: ObjectMeasures) -> Section:
    groups = {**found.coco, **({"boundary": found.boundary} if found.boundary else {})}
    columns = (*_COLUMNS, "ar") if "keypoints" in groups else _COLUMNS  # of keypoints there is one AR
    rows = [[KIND_WORDS[kind], *(number_text(group.get(name)) for name in columns)] for kind, group in groups.items()]
    heads = ["Average precision of", *(name.replace("_", " ") for name in columns)]
    ranges = ", ".join(
        f"{name} {i.value:.3f} ({i.low:.3f} to {i.high:.3f})" for name, i in found.intervals.items() if isfinite(i.low)
    )
    note = f"95% of resampled sets of images: {ranges} (masks)." if ranges else ""
    return Section("coco", "COCO numbers", groups, [Table(heads, rows, note)])


def _curves(found: ObjectMeasures) -> Section:
    charts = []
    curve = found.sweeps.get("")
    if curve is not None:
        at = [int(round(v * 100)) for v in GUIDES]
        words = " and ".join(
            f"precision {number_text(curve.precision[i])}, recall {curve.recall[i]:.3f} at {i / 100:g}" for i in at
        )
        note = (
            "Precision (blue), recall (orange) and F1 (violet) at IoU 0.5, all classes. "
            f"Best F1 {curve.best_f1:.3f} at {curve.best_threshold:.2f}; {words}."
        )
        charts.append(Chart("Which score threshold?", sweep_chart(curve, found.score), note))
    scores = found.calibration
    note = (
        f"Expected calibration error {number_text(scores.ece)}, largest gap {number_text(scores.largest_gap)}. On the "
        "dashed line a score is the share of right detections; bars below it are over-confident."
    )
    charts.append(Chart("Do scores mean what they say?", reliability_chart(scores), note))
    return Section("scores", "Scores", {"ece": scores.ece, "largest_gap": scores.largest_gap}, charts=charts)


def _errors(found: ObjectMeasures) -> Section:
    charts = [
        Chart(
            "What would correcting each kind of error gain?",
            error_chart(found.tide, KINDS),
            "AP50 gained (TIDE), and how many there are.",
        )
    ]
    if len(found.classes) > 1:
        note = f"Rows are true, columns predicted classes, score at least {found.score:g}, IoU at least 0.5."
        charts.append(Chart("What is taken for what?", confusion_chart(found.confusion, found.classes), note))
    return Section("errors", "Errors", {"tide": found.tide, "confusion": found.confusion}, charts=charts)


def _thresholded(found: ObjectMeasures) -> Section:
    quality = [[words, number_text(found.quality[name])] for name, words in _QUALITY.items() if name in found.quality]
    names = ("score", "precision", "recall")
    counts = ("true_positives", "false_positives", "false_negatives")
    matching = [
        [iou, *(number_text(row[n]) for n in names), *(f"{row[n]:,.0f}" for n in counts)]
        for iou, row in found.matching.items()
    ]
    heads = ["IoU", "TP / (TP + FP + FN)", "precision", "recall", "TP", "FP", "FN"]
    return Section(
        "shown",
        f"What a user sees at a score of {found.score:g}",
        {"score": found.score, "quality": found.quality, "matching": found.matching},
        [Table(["Measure", "value"], quality), Table(heads, matching)],
    )


def _classes(found: ObjectMeasures) -> Section:
    rows = []
    for name, row in zip(found.classes, found.per_class, strict=True):
        curve = found.sweeps.get(name)
        best = ["–", "–"] if curve is None else [number_text(curve.best_f1), f"{curve.best_threshold:.2f}"]
        numbers = [number_text(row.get(key)) for key in ("ap", "ap50", "ap75", "boundary_ap", "ar100", "pq")]
        rows.append([name, f"{row['objects']:,}", f"{row['detections']:,}", *numbers, *best])
    heads = [
        "Class", "objects", "detections", "ap", "ap50", "ap75", "boundary ap", "ar100", "pq", "best F1", "at score",
    ]  # fmt: skip
    values = dict(zip(found.classes, found.per_class, strict=True))
    intervals = {name: asdict(interval) for name, interval in found.intervals.items()}
    return Section("classes", "Classes", {"per_class": values, "intervals": intervals}, [Table(heads, rows)])
