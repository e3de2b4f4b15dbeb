"""Images of an evaluation: the images that a model does best and worst, found beside annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eachmask.data.formats.coco import CocoDataset
from eachmask.draw import RGBImage, overlay, shrink
from eachmask.metrics.matching import Counts, count_in_image
from eachmask.structures import Instances, UserError

SIDE = 480
"""Longer side of each image, px."""
IOU = 0.5
_MISSING = 3
"""After so many files that cannot be read no more are tried: results can be measured without the images."""


@dataclass(frozen=True)
class Pair:
    """One image twice."""

    found: RGBImage
    annotated: RGBImage
    caption: str


def ranking(shown: Sequence[Instances], targets: Sequence[Instances]) -> tuple[list[int], dict[int, Counts]]:
    """Images from best to worst, and what was counted in each: by TP/(TP+FP+FN) at IoU 0.5, classes aside; of equals
    those with more objects first. Images without objects are left out.

    Args:
        shown: the predictions that a user sees.
    """
    single = [some[np.flatnonzero(~some.crowd.cpu().numpy())] for some in targets]
    counts = {i: count_in_image(found, single[i], IOU) for i, found in enumerate(shown) if len(single[i])}
    return sorted(counts, key=lambda i: (-counts[i].score, -len(targets[i]))), counts


def best_and_worst(
    dataset: CocoDataset,
    index: Sequence[int],
    predictions: Sequence[Instances],
    targets: Sequence[Instances],
    score: float,
    most: int,
) -> tuple[list[Pair], list[Pair]]:
    """The images with the highest and the lowest score of their :func:`ranking`; of equals those with more objects.
    Those whose file is not there are left out.

    Args:
        index: where in the data set each of the predictions and targets belongs.
        score: threshold of what is shown.
        most: so many of each; no image is in both.
    """
    if not most:
        return [], []
    shown = [instances.filter(score=score) for instances in predictions]
    order, counts = ranking(shown, targets)
    most = min(most, (len(order) + 1) // 2)
    used: set[int] = set()

    def pairs(chosen: Sequence[int]) -> list[Pair]:
        made: list[Pair] = []
        missing = 0
        for i in chosen:
            if len(made) == most or missing == _MISSING:
                break
            try:
                image, caption = dataset[index[i]].image, _caption(dataset, index[i], counts[i])
                made.append(_pair(image, shown[i], targets[i], caption))
                used.add(i)
            except UserError:
                missing += 1
        return made

    best = pairs(order)
    rest = [i for i in order if i not in used]
    return best, pairs(sorted(rest, key=lambda i: (counts[i].score, -len(targets[i])))) if best else []


def _caption(dataset: CocoDataset, index: int, counts: Counts) -> str:
    name = dataset.records[index]["file_name"]
    return (
        f"{name}: {counts.true_positives} found, {counts.false_negatives} missed, {counts.false_positives} false; "
        f"TP / (TP + FP + FN) {counts.score:.2f}"
    )


def _pair(image: Any, found: Instances, targets: Instances, caption: str) -> Pair:
    return Pair(overlay(*shrink(image, found, SIDE)), overlay(*shrink(image, targets, SIDE)), caption)
