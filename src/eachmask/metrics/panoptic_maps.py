"""Panoptic quality of panoptic maps, exactly as panopticapi counts (Kirillov et al., CVPR 2019, arXiv 1801.00868).

Segments of a map do not overlap, so a prediction and an object of one class can match at an IoU above one half only
once. Pixels that are not annotated are void: they count for nobody's union, and a prediction that lies more than half
in void and in the crowd of its class is no false positive. Of several crowds of a class in one image only the last
counts, as in panopticapi.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.panoptic_quality import Quality
from eachmask.structures import PanopticMap


def map_quality(pairs: Iterable[tuple[PanopticMap, PanopticMap]], num_classes: int) -> list[Quality]:
    """Counts per class, pooled over images.

    Args:
        pairs: (prediction, target) of one image each, with labels of the same categories.
    """
    totals = [Quality() for _ in range(num_classes)]
    for found, target in pairs:
        for label, quality in qualities(found, target).items():
            totals[label] += quality
    return totals


def qualities(found: PanopticMap, target: PanopticMap) -> dict[int, Quality]:
    """Counts of one image by class, of the classes that occur.

    Raises:
        ValueError: the two are of different sizes.
    """
    if found.image_size != target.image_size:
        raise ValueError(f"a prediction on {found.image_size} of an image of {target.image_size}")
    common = _common(found, target)
    area, void = common.sum(1), common[:, 0]
    counts = common[1:, 1:].astype(np.float64)
    unions = (area - void)[1:, None] + common.sum(0)[1:] - common[1:, 1:]
    labels = np.array([segment.label for segment in found.segments], np.int64)
    true_labels = np.array([segment.label for segment in target.segments], np.int64)
    crowd = np.array([segment.crowd for segment in target.segments], bool)
    iou = np.where((labels[:, None] == true_labels) & ~crowd, counts / np.maximum(unions, 1), 0.0)
    rows, columns = np.nonzero(iou > 0.5)
    missed, false = ~crowd, np.ones(len(labels), bool)
    missed[columns] = False
    false[rows] = False
    last_crowd = {int(label): i for i, label in enumerate(true_labels) if crowd[i]}
    for i in np.flatnonzero(false):
        excused = void[i + 1] + (counts[i, last_crowd[int(labels[i])]] if int(labels[i]) in last_crowd else 0)
        false[i] = not excused / area[i + 1] > 0.5
    return {
        label: Quality(
            float(iou[rows, columns][labels[rows] == label].sum()),
            int((labels[rows] == label).sum()),
            int((false & (labels == label)).sum()),
            int((missed & (true_labels == label)).sum()),
        )
        for label in sorted({*labels.tolist(), *true_labels[~crowd].tolist()})
    }


def _common(found: PanopticMap, target: PanopticMap) -> NDArray[np.int64]:
    """(1 + N, 1 + M) pixels that each segment shares with each of the other; row and column 0 are of no segment."""
    rows, columns = _places(found), _places(target)
    n, m = len(found.segments) + 1, len(target.segments) + 1
    return np.bincount(rows.ravel() * m + columns.ravel(), minlength=n * m).reshape(n, m)


def _places(seen: PanopticMap) -> NDArray[np.int64]:
    """(H, W): the place of each pixel's segment in the list from 1, 0 where there is none."""
    ids = np.array([0, *(segment.id for segment in seen.segments)])
    order = np.argsort(ids)
    return order[np.searchsorted(ids, seen.ids.cpu().numpy(), sorter=order)]
