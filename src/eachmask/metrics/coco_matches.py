"""COCO's assignment of detections to objects, kept as a table: what all score-ranked measures are made of.

For the twelve COCO numbers :mod:`~eachmask.metrics.coco_ap` is the fast way. This table is for what needs more than
numbers: another overlap than the mask's (boundary AP), curves over the score, calibration, resampling of images.
The rules are pycocotools' (``cocoeval.py``, ``evaluateImg``), and a test holds its numbers equal to them:

- detections are taken by falling score, ties in their order; at most ``limit`` per image and category;
- each takes the free object of its category with the largest overlap >= the threshold, of equal ones the later;
- objects that do not count (crowds; size outside the range) are taken only where no other fits; a crowd takes any
  number. A detection on such an object does not count either, nor does a free one of a size outside the range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IOUS = np.linspace(0.5, 0.95, 10)
"""The thresholds, T = 10."""
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""All, small, medium, large: pixels, both ends included; A = 4."""

Overlap = Callable[[Instances, Instances], Floats]
"""(predictions, targets) of one image -> (D, G) in 0..1; only pairs of one category are looked at."""


@dataclass(frozen=True)
class Matches:
    """All detections (D) and objects (G) of a data set, and which detection hit what."""

    num_images: int
    num_classes: int
    image: Ints
    """(D,) index of the image."""
    label: Ints
    """(D,)"""
    rank: Ints
    """(D,) place by score in its image and category, from 0."""
    score: Floats
    """(D,)"""
    matched: Bools
    """(A, T, D) has an object."""
    ignored: Bools
    """(A, T, D) counts neither as right nor as wrong."""
    object_image: Ints
    """(G,)"""
    object_label: Ints
    """(G,)"""
    object_ignored: Bools
    """(A, G) crowd, or of another size."""

    def of_class(self, label: int) -> Matches:
        """The detections and objects of one class, best score first (stable over images)."""
        chosen = np.flatnonzero(self.label == label)
        chosen = chosen[np.argsort(-self.score[chosen], kind="stable")]
        objects = self.object_label == label
        return Matches(
            self.num_images,
            self.num_classes,
            self.image[chosen],
            self.label[chosen],
            self.rank[chosen],
            self.score[chosen],
            self.matched[..., chosen],
            self.ignored[..., chosen],
            self.object_image[objects],
            self.object_label[objects],
            self.object_ignored[:, objects],
        )


def mask_overlap(predictions: Instances, targets: Instances) -> Floats:
    """Mask IoU; over a crowd region the share of the prediction that lies in it."""
    assert predictions.masks is not None and targets.masks is not None
    iou = predictions.masks.iou(targets.masks)
    crowd = targets.crowd.cpu().numpy()
    if crowd.any():
        common = predictions.masks.intersection(targets.masks[crowd])
        iou[:, crowd] = common / np.maximum(predictions.masks.area(), 1)[:, None]
    return iou


def box_overlap(predictions: Instances, targets: Instances) -> Floats:
    """Box IoU; over a crowd region the share of the prediction that lies in it."""
    iou = box_ops.iou(predictions.boxes, targets.boxes).double()
    crowd = targets.crowd.cpu()
    if crowd.any():
        ours, theirs = predictions.boxes[:, None], targets.boxes[crowd]
        sides = torch.minimum(ours[..., 2:], theirs[:, 2:]) - torch.maximum(ours[..., :2], theirs[:, :2])
        iou[:, crowd] = (sides.clamp(min=0).prod(-1) / box_ops.area(predictions.boxes)[:, None]).double()
    return iou.numpy()


def match(
    predictions: Sequence[Instances],
    targets: Sequence[Instances],
    num_classes: int,
    *,
    overlap: Overlap = mask_overlap,
    limit: int = 100,
) -> Matches:
    """Match whole data sets, image by image and class by class.

    Args:
        predictions, targets: one entry per image, with labels and what ``overlap`` compares; predictions with scores.
        num_classes: labels are below it.
        overlap: what to compare; default is the mask IoU.
        limit: detections kept per image and class.

    Raises:
        ValueError: the two lists differ in length.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} images")
    rows: list[tuple[NDArray[np.generic], ...]] = []
    objects: list[tuple[Ints, Ints, Bools]] = []
    for image, (found, true) in enumerate(zip(predictions, targets, strict=True)):
        unimportant = _outside(true) | true.crowd.cpu().numpy()
        objects.append((np.full(len(true), image), true.labels.cpu().numpy(), unimportant))
        if len(found):
            rows += _of_image(image, found, true, overlap(found, true), limit)
    none = (np.zeros(0, np.int64),) * 3
    shape = (len(AREAS), len(IOUS), 0)
    empty = (*none, np.zeros(0), np.zeros(shape, bool), np.zeros(shape, bool))
    columns: list[NDArray[Any]] = [np.concatenate(parts, axis=-1) for parts in zip(empty, *rows, strict=True)]
    no_object = (*none[:2], np.zeros((len(AREAS), 0), bool))
    true_columns: list[NDArray[Any]] = [
        np.concatenate(parts, axis=-1) for parts in zip(no_object, *objects, strict=True)
    ]
    return Matches(len(targets), num_classes, *columns, *true_columns)


def _of_image(
    image: int, found: Instances, true: Instances, overlap: Floats, limit: int
) -> list[tuple[NDArray[np.generic], ...]]:
    """The detections' columns, class by class."""
    labels, scores, outside = found.labels.cpu().numpy(), _scores(found), _outside(found)
    true_labels, crowd = true.labels.cpu().numpy(), true.crowd.cpu().numpy()
    unimportant = _outside(true) | crowd
    rows: list[tuple[NDArray[np.generic], ...]] = []
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:limit]
        same = np.flatnonzero(true_labels == label)
        matched, ignored = assign(overlap[np.ix_(chosen, same)], outside[:, chosen], unimportant[:, same], crowd[same])
        num = len(chosen)
        rows.append((np.full(num, image), np.full(num, label), np.arange(num), scores[chosen], matched, ignored))
    return rows


def assign(overlap: Floats, outside: Bools, unimportant: Bools, crowd: Bools) -> tuple[Bools, Bools]:
    """One image and category -> matched and ignored, (A, T, D) each.

    Args:
        overlap: (D, G); detections by falling score.
        outside: (A, D) the detection's size is not in the range.
        unimportant: (A, G) the object does not count.
        crowd: (G,)
    """
    num, num_objects = overlap.shape
    areas, thresholds = len(AREAS), np.minimum(IOUS, 1 - 1e-10)
    matched = np.zeros((areas, len(IOUS), num), bool)
    ignored = np.repeat(outside[:, None], len(IOUS), axis=1)
    if not num_objects:
        return matched, ignored
    free = np.ones((areas, len(IOUS), num_objects), bool)
    for i in np.flatnonzero(overlap.max(1) >= thresholds[0]):
        fits = free & (overlap[i] >= thresholds[:, None])
        real = fits & ~unimportant[:, None]
        on_real = real.any(-1)
        candidates = np.where(on_real[..., None], real, fits)
        some = candidates.any(-1)
        from_the_end = np.where(candidates, overlap[i], -1.0)[..., ::-1]  # of equals the later wins
        best = num_objects - 1 - from_the_end.argmax(-1)
        matched[..., i] = some
        ignored[..., i] = np.where(some, ~on_real, ignored[..., i])
        a, t = np.nonzero(some & ~crowd[best])
        free[a, t, best[a, t]] = False
    return matched, ignored


def _outside(instances: Instances) -> Bools:
    """(A, N) the mask's area, or without masks the box's, is not in the range."""
    masks, boxes = instances.masks, instances.boxes
    area = box_ops.area(boxes).double().numpy() if masks is None else masks.area()
    return np.stack([(area < low) | (area > high) for low, high in AREAS])


def _scores(instances: Instances) -> Floats:
    return np.ones(len(instances)) if instances.scores is None else instances.scores.cpu().double().numpy()
