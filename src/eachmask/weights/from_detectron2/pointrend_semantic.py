"""Detectron2's PointRend project, label maps (``pointrend_semantic_R_101_FPN_1x_cityscapes``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.from_detectron2.panoptic_fpn import HEAD
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    *((theirs.replace("head", r"head\.coarse_sem_seg_head", 1), ours) for theirs, ours in HEAD),
    *((rf"^sem_seg_head\.point_head\.fc{i + 1}\.", f"point_head.layers.{i}.") for i in range(5)),
    (r"^sem_seg_head\.point_head\.predictor\.", "point_head.classes."),
    *fpn(),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict -> that of our ``pointrend_semantic_*``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "Detectron2")
