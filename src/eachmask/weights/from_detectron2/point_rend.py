"""Detectron2's PointRend project, instance segmentation (``pointrend_rcnn_R_50_FPN_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2 import two_stage
from eachmask.weights.renaming import Rule, rename

_LAYERS = tuple(
    (rf"^roi_heads\.mask_head\.{theirs}_head\.fc{i + 1}\.", f"{theirs}_head.layers.{i}.")
    for theirs in ("coarse", "point")
    for i in range(3)
)

RULES: tuple[Rule, ...] = (
    (r"^roi_heads\.mask_head\.coarse_head\.reduce_spatial_dim_conv\.", "coarse_head.reduce."),
    (r"^roi_heads\.mask_head\.coarse_head\.prediction\.", "coarse_head.outputs."),
    (r"^roi_heads\.mask_head\.point_head\.predictor\.", "point_head.classes."),
    *_LAYERS,
    *two_stage.RULES,
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict -> ours (``pointrend_r50_fpn``)."""
    return rename(state, RULES, "Detectron2")
