"""How models that answer prompts alone are measured while they train: what a user would say of each val object, and the
IoU of what comes back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from eachmask.ops.clicks import depths
from eachmask.structures import Instances, Prompts

MAX_ASKED = 6
"""Objects per val image that are asked about."""


def asked(targets: Instances) -> Instances:
    """The largest objects, whose answers are measured."""
    areas = targets.gt_masks.area()
    kept = np.flatnonzero(~targets.crowd.numpy() & (areas > 0))
    return targets[kept[np.argsort(-areas[kept], kind="stable")][:MAX_ASKED]]


def ask_points(targets: Instances) -> Prompts:
    """A click in the middle of each of the largest objects; in that of an image without any."""
    chosen, (height, width) = asked(targets), targets.image_size
    if not len(chosen):
        return _middle(targets)
    places = [int(depths(mask, exact=False).argmax()) for mask in chosen.gt_masks.to_rle().decode()]
    points = torch.tensor([[place % width + 0.5, place // width + 0.5] for place in places])
    return Prompts((height, width), points=points, point_objects=torch.arange(len(points)))


def ask_extremes(targets: Instances) -> Prompts:
    """The outermost places (left, right, top, bottom) of each of the largest objects."""
    found = []
    for mask in asked(targets).gt_masks.to_rle().decode():
        places = np.argwhere(mask)[:, ::-1] + 0.5
        x, y = places.T
        found.append(places[[x.argmin(), x.argmax(), y.argmin(), y.argmax()]].tolist())
    return Prompts(targets.image_size, extremes=torch.tensor(found)) if found else _whole(targets)


def score(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """Mean IoU of the answers with the objects that were meant, and the share of those above 0.85."""
    values: list[float] = []
    for found, target in zip(predictions, targets, strict=True):
        chosen = asked(target)
        iou = np.zeros(len(chosen))
        if len(chosen) and len(found):
            assert found.masks is not None and found.track_ids is not None
            overlap = found.masks.to_rle().iou(chosen.gt_masks.to_rle())
            for row, number in enumerate(found.track_ids.tolist()):
                iou[number] = overlap[row, number]
        values += iou.tolist()
    return {"iou": float(np.mean(values or [0.0])), "above_85": float(np.mean(np.array(values or [0.0]) >= 0.85))}


def _middle(targets: Instances) -> Prompts:
    height, width = targets.image_size
    return Prompts(targets.image_size, points=torch.tensor([[width / 2, height / 2]]))


def _whole(targets: Instances) -> Prompts:
    height, width = targets.image_size
    return Prompts(targets.image_size, boxes=torch.tensor([[0.0, 0.0, width, height]]))
