"""Boxes: object detection without masks. Scored by boxes, else as objects with masks are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eachmask.structures import Instances
from eachmask.tasks.instances import INSTANCES, coco_scores


def box_scores(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """COCO's average precision of boxes."""
    return coco_scores(predictions, targets, "bbox")


BOXES = replace(INSTANCES, name="boxes", scoring=replace(INSTANCES.scoring, scores=box_scores), mixes=False)
