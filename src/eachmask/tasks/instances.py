"""Instances: one mask for each object. The record of all models that predict masks of things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eachmask.files.sections import Section
from eachmask.metrics.coco_ap import Kind, coco_ap
from eachmask.metrics.coco_matches import box_overlap, mask_overlap, match
from eachmask.metrics.matching import count_in_image
from eachmask.metrics.sweep import sweep
from eachmask.ops.looks import join_looks
from eachmask.ops.tiles import merge_tiles
from eachmask.structures import Category, Instances
from eachmask.tasks.instance_outputs import OUTPUTS
from eachmask.tasks.kept import INSTANCES_KEPT
from eachmask.tasks.object_measures import measure_objects
from eachmask.tasks.object_storage import STORAGE
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import Box, Scoring, Task, Verdict, overlay

SCORES = ("ap", "ap50", "ap75", "ar100")
"""COCO's measures that decide."""


def mask_scores(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """COCO's average precision of masks."""
    return coco_scores(predictions, targets, "segm")


def coco_scores(
    predictions: Sequence[Instances], targets: Sequence[Instances], kind: Kind, names: Sequence[str] = SCORES
) -> dict[str, float]:
    """Some of COCO's measures; those of sizes without an object are 0."""
    numbers = coco_ap(predictions, targets, kind=kind)
    return {name: 0.0 if np.isnan(numbers[name]) else numbers[name] for name in names}


def best_threshold(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, Any]:
    """The score from which on objects should be shown: that of the best F1 at IoU 0.5; nothing if nothing is right."""
    if any(found.scores is None for found in predictions):
        return {}
    with_masks = all(some.masks is not None for some in (*predictions, *targets))
    num_classes = 1 + max((int(some.labels.max()) for some in (*predictions, *targets) if len(some)), default=0)
    best = sweep(match(predictions, targets, num_classes, overlap=mask_overlap if with_masks else box_overlap))
    return {"score_threshold": best.best_threshold} if best is not None and best.best_f1 > 0 else {}


def quality(shown: Instances, target: Instances) -> float:
    """TP/(TP+FP+FN) at IoU 0.5, classes aside."""
    return count_in_image(shown, target, 0.5).score


def judged(shown: Instances, target: Instances) -> Verdict:
    """Quality without crowd regions, and what was counted."""
    single = target[np.flatnonzero(~target.crowd.cpu().numpy())]
    counts = count_in_image(shown, single, 0.5)
    words = (
        f"{counts.true_positives} found, {counts.false_negatives} missed, {counts.false_positives} false; "
        f"TP / (TP + FP + FN) {counts.score:.2f}"
    )
    return Verdict(counts.score, words, len(target) if len(single) else 0)


def sections(predictions: Sequence[Instances], targets: Sequence[Instances], settings: Settings) -> tuple[Section, ...]:
    """Those of :func:`~eachmask.tasks.object_measures.measure_objects`."""
    return measure_objects(predictions, targets, settings).sections()


def sure(found: Instances, score: float) -> Instances:
    """The objects that score at least so much; all where there are no scores."""
    return found if found.scores is None else found.filter(score=score)


def choose(found: Instances, classes: Sequence[str], most: int | None) -> Instances:
    """The best objects of some classes."""
    if classes:
        found = found.filter(classes=classes)
    if most is None or found.scores is None:
        return found[:most]
    return found[np.argsort(-found.scores.numpy(), kind="stable")[:most]]


def packed(found: Instances) -> Instances:
    """Masks as runs."""
    return found if found.masks is None else replace(found, masks=found.masks.to_rle())


def with_categories(found: Instances, categories: tuple[Category, ...]) -> Instances:
    """Named by the model's categories."""
    return replace(found, categories=categories)


def merge(parts: Sequence[Instances], tiles: Sequence[Box], size: tuple[int, int]) -> Instances:
    """The objects of all tiles; what a seam has cut is joined."""
    placed = [part.shift(tile[0], tile[1], size) for part, tile in zip(parts, tiles, strict=True)]
    return merge_tiles(placed, tiles)


INSTANCES: Task[Instances] = Task(
    name="instances",
    target=Instances,
    scoring=Scoring(mask_scores, "ap", quality, "TP/(TP+FP+FN) at IoU 0.5", best_threshold),
    shown=sure,
    choose=choose,
    merge=merge,
    join=join_looks,
    render=overlay,
    outputs=OUTPUTS,
    sections=sections,
    measures=measure_objects,
    judged=judged,
    storage=STORAGE,
    packed=packed,
    with_categories=with_categories,
    kept=INSTANCES_KEPT,
    mixes=True,
)
