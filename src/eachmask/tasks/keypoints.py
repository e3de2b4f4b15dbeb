"""Keypoints: objects with named points, scored by their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eachmask.structures import Instances
from eachmask.tasks.boxes import box_scores
from eachmask.tasks.instances import INSTANCES, coco_scores


def keypoint_scores(predictions: Sequence[Instances], targets: Sequence[Instances]) -> dict[str, float]:
    """COCO's average precision of keypoints, by their similarity (OKS) instead of IoU, and that of boxes beside it."""
    scores = coco_scores(predictions, targets, "keypoints", ("ap", "ap50", "ap75", "ar"))
    return scores | {"box_ap": box_scores(predictions, targets)["ap"]}


KEYPOINTS = replace(
    INSTANCES, name="keypoints", scoring=replace(INSTANCES.scoring, scores=keypoint_scores), mixes=False
)
