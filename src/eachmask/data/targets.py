"""From masks to the targets of an image, and back to masks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.formats.segmentations import Rasterized
from eachmask.structures import RLE, Category, Instances
from eachmask.structures.runs import ColumnRuns, ranges


def instances_of(
    masks: RLE | Rasterized,
    labels: Sequence[int],
    crowd: Sequence[bool],
    categories: tuple[Category, ...],
    scores: Sequence[float | None] = (),
) -> Instances:
    """Targets of one image from its masks; boxes are tight. Masks without a pixel are left out.

    Args:
        scores: of each mask, where a model has predicted them; None where it has not.
    """
    filled = masks if isinstance(masks, Rasterized) else Rasterized(masks, masks.area(), masks.boxes())
    keep = filled.area > 0
    return Instances(
        image_size=filled.masks.size,
        boxes=torch.from_numpy(filled.boxes[keep]),
        masks=filled.masks[keep],  # a copy: what the masks have worked out about themselves stays behind
        labels=torch.from_numpy(np.asarray(labels, np.int64).reshape(-1)[keep]),
        crowd=torch.from_numpy(np.asarray(crowd, bool).reshape(-1)[keep]),
        scores=torch.from_numpy(np.array(scores, np.float32)[keep]) if len(scores) else None,
        categories=categories,
    )


def score_in(entry: Mapping[str, Any], key: str = "score") -> float | None:
    """The score that an entry of a file says, 0..1; None where it says none."""
    try:
        score = float(entry[key])
    except (KeyError, TypeError, ValueError):
        return None
    return score if 0 <= score <= 1 else None


def united(
    masks: Rasterized, objects: Sequence[Hashable], columns: Sequence[Sequence[Any]]
) -> tuple[Rasterized | RLE, list[Sequence[Any]]]:
    """Masks and columns of values with the shapes of one object united, which has the values of its first.

    Args:
        objects: what each shape is a part of; equal ones are one object.
    """
    if len(set(objects)) == len(objects):
        return masks, list(columns)
    members: dict[Hashable, list[int]] = {}
    for i in np.flatnonzero(masks.area).tolist():
        members.setdefault(objects[i], []).append(i)
    joined = RLE.cat([RLE.empty(masks.masks.size), *(masks.masks[own].union() for own in members.values())])
    first = [own[0] for own in members.values()]
    return joined, [[column[i] for i in first] for column in columns]


def masks_of(targets: Instances) -> RLE:
    """The masks; an object without one gets its box, rounded to whole pixels.

    They are new each time, over the same packed arrays: what a mask works out about itself and keeps, several times
    its own size, goes with them and does not pile up over a data set.
    """
    if targets.masks is not None:
        masks = targets.masks.to_rle()
        return RLE(masks.counts, masks.offsets, masks.size)
    boxes = np.rint(targets.boxes.numpy()).astype(np.int64)
    return RLE.from_column_runs(_columns_of(boxes), len(boxes), targets.image_size)


def _columns_of(boxes: NDArray[np.int64]) -> ColumnRuns:
    widths = np.maximum(boxes[:, 2] - boxes[:, 0], 0)
    owner = np.repeat(np.arange(len(boxes)), widths)
    return ColumnRuns(owner, ranges(boxes[:, 0], widths), boxes[owner, 1], boxes[owner, 3])


def named_categories(names: Iterable[str], first_id: int = 1) -> tuple[Category, ...]:
    """Names -> categories with consecutive ids; each name once, in the order given."""
    return tuple(Category(i, name) for i, name in enumerate(dict.fromkeys(names), start=first_id))
