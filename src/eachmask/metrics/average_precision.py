"""Average precision and recall from a table of matches, as COCO averages them (Lin et al., arXiv 1405.0312).

Precision is made monotone from the right and read at 101 recalls; classes without an object are left out of the
mean (so false positives of an absent class are free: pycocotools does the same). With image weights the same arithmetic
serves the bootstrap: an image resampled twice counts twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.coco_ap import NAMES
from eachmask.metrics.coco_matches import AREAS, IOUS, Matches

RECALLS = np.linspace(0.0, 1.0, 101)


def class_precision(
    one: Matches, area: int = 0, limit: int = 100, weights: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """AP (T,) and largest recall (T,) of one class, 0..1; None where it has no object.

    Args:
        one: ``matches.of_class(k)``.
        area: index into ``AREAS``.
        limit: detections per image that are looked at.
        weights: (num_images,) how often each image counts; default once.
    """
    counts = ~one.object_ignored[area]
    per_image = np.ones(one.num_images) if weights is None else weights
    num_objects = per_image[one.object_image[counts]].sum()
    if num_objects <= 0:
        return None
    kept = one.rank < limit
    each = np.where(one.ignored[area][:, kept], 0.0, per_image[one.image[kept]])  # (T, D)
    hit = one.matched[area][:, kept]
    right, wrong = np.cumsum(each * hit, axis=1), np.cumsum(each * ~hit, axis=1)
    recall = right / num_objects
    ap = read_at_recalls(right / (right + wrong + np.spacing(1)), recall)
    return ap, recall[:, -1] if recall.shape[1] else np.zeros(len(IOUS))


def read_at_recalls(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) mean of the precision, made monotone from the right, at 101 recalls; 0 at those that are not reached.

    Args:
        precision, recall: (T, D) after each of D detections, the best first; T levels of IoU.
    """
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    places = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return np.array([np.append(row, 0.0)[place].mean() for row, place in zip(precision, places, strict=True)])


def summary(matches: Matches) -> dict[str, float]:
    """The twelve COCO numbers, 0..1; NaN where no object is in the range."""
    classes = [matches.of_class(k) for k in range(matches.num_classes)]

    def table(area: int, limit: int) -> NDArray[np.float64]:
        """(2, T, classes with objects)"""
        found = [class_precision(one, area, limit) for one in classes]
        values = [np.stack(pair) for pair in found if pair is not None]
        return np.stack(values, axis=-1) if values else np.full((2, len(IOUS), 1), np.nan)

    every = [table(area, 100) for area in range(len(AREAS))]
    ap, ar = [t[0] for t in every], [t[1] for t in every]
    few = [table(0, limit)[1].mean() for limit in (1, 10)]
    values = [ap[0].mean(), ap[0][0].mean(), ap[0][5].mean(), *(a.mean() for a in ap[1:])]
    values += [*few, *(a.mean() for a in ar)]
    return {name: float(value) for name, value in zip(NAMES, values, strict=True)}


def per_class(matches: Matches) -> list[dict[str, float]]:
    """AP, AP50, AP75, AR100 and the number of objects of each class; NaN for a class without objects."""
    rows = []
    for label in range(matches.num_classes):
        one = matches.of_class(label)
        found = class_precision(one)
        ap, recall = (np.full(len(IOUS), np.nan),) * 2 if found is None else found
        rows.append(
            {
                "ap": float(ap.mean()),
                "ap50": float(ap[0]),
                "ap75": float(ap[5]),
                "ar100": float(recall.mean()),
                "objects": int((~one.object_ignored[0]).sum()),
                "detections": len(one.label),
            }
        )
    return rows
