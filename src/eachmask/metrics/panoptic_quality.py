"""Panoptic quality of instance segmentations: PQ = SQ x RQ (Kirillov et al., CVPR 2019, arXiv 1801.00868).

A prediction and an object of one class match where their IoU is above one half, which can happen only once if masks do
not overlap. Predictions may; so they are laid out first as the panoptic benchmark asks for: by falling score, each
gets the pixels that nobody before it has. A crowd region is no object, and a prediction that lies more than half in
crowds of its class is no false positive, as in panopticapi (which looks at one crowd per class and image only).
There are no void pixels here: what is not annotated is background.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import RLE, Instances


@dataclass(frozen=True)
class Quality:
    """One class's counts, pooled over images."""

    iou_sum: float = 0.0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: Quality) -> Quality:
        return Quality(
            self.iou_sum + other.iou_sum,
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matched; 0 where nothing matched."""
        return self.iou_sum / self.true_positives if self.true_positives else 0.0

    @property
    def rq(self) -> float:
        """Recognition quality: TP / (TP + FP/2 + FN/2), an F1; NaN where there was nothing at all."""
        total = self.true_positives + (self.false_positives + self.false_negatives) / 2
        return self.true_positives / total if total else float("nan")

    @property
    def pq(self) -> float:
        """SQ x RQ."""
        return self.sq * self.rq


def panoptic_quality(pairs: Iterable[tuple[Instances, Instances]], num_classes: int) -> list[Quality]:
    """Counts per class.

    Args:
        pairs: (predictions, targets) of one image each, with masks and labels. There is no score threshold in this
            measure: filter the predictions first.
    """
    totals = [Quality() for _ in range(num_classes)]
    for predictions, targets in pairs:
        for label, quality in _of_image(predictions, targets).items():
            totals[label] += quality
    return totals


def mean_quality(totals: list[Quality]) -> dict[str, float]:
    """PQ, SQ, RQ averaged over the classes that occur; NaN where none does."""
    present = [q for q in totals if not np.isnan(q.rq)]
    names = ("pq", "sq", "rq")
    return {name: float(np.mean([getattr(q, name) for q in present])) if present else float("nan") for name in names}


def without_overlaps(instances: Instances) -> Instances:
    """Best score first, each mask without the pixels of those before it; what keeps no pixel is gone."""
    if instances.scores is not None:
        instances = instances[np.argsort(-instances.scores.cpu().numpy(), kind="stable")]
    assert instances.masks is not None
    canvas = instances.masks.to_label_map()
    kept = np.unique(canvas)
    return replace(instances[kept[kept > 0] - 1], masks=RLE.from_label_map(canvas))


def _of_image(predictions: Instances, targets: Instances) -> dict[int, Quality]:
    predictions = without_overlaps(predictions)
    assert predictions.masks is not None and targets.masks is not None
    crowd = targets.crowd.cpu().numpy()
    labels, true_labels = predictions.labels.cpu().numpy(), targets.labels.cpu().numpy()
    overlap, area = predictions.masks.iou(targets.masks), predictions.masks.area()
    found: dict[int, Quality] = {}
    for label in {*labels.tolist(), *true_labels[~crowd].tolist()}:
        mine, same = labels == label, true_labels == label
        iou = overlap[np.ix_(mine, same & ~crowd)]
        rows, columns = _one_to_one(iou, *np.nonzero(iou > 0.5))
        free = np.ones(len(iou), bool)
        free[rows] = False
        if (same & crowd).any() and free.any():
            in_crowd = predictions.masks[mine].intersection(targets.masks[same & crowd].union())[:, 0]
            free &= in_crowd <= 0.5 * area[mine]
        hits = len(rows)
        found[label] = Quality(float(iou[rows, columns].sum()), hits, int(free.sum()), iou.shape[1] - hits)
    return found


def _one_to_one(
    iou: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Annotated objects may overlap, and then a prediction can fit two: it keeps the one it fits best."""
    order = np.argsort(-iou[rows, columns], kind="stable")
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    kept = []
    for i in order.tolist():
        row, column = int(rows[i]), int(columns[i])
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            kept.append(i)
    return rows[kept], columns[kept]
