"""The PolarMask authors' checkpoints (``polar_768_1x_r50``): MMDetection's backbone and pyramid with its own head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

_TOWERS = (("cls_convs", "head.class_tower"), ("reg_convs", "head.box_tower"), ("mask_convs", "ray_head.tower"))

RULES: tuple[Rule, ...] = (
    *fpn(3),
    *((rf"^bbox_head\.{theirs}\.(\d)\.conv\.", rf"{ours}.\1.0.") for theirs, ours in _TOWERS),
    *((rf"^bbox_head\.{theirs}\.(\d)\.gn\.", rf"{ours}.\1.1.") for theirs, ours in _TOWERS),
    (r"^bbox_head\.polar_cls\.", "head.classes."),
    (r"^bbox_head\.polar_reg\.", "head.distances."),
    (r"^bbox_head\.polar_mask\.", "ray_head.rays."),
    (r"^bbox_head\.polar_centerness\.", "head.centerness."),
    (r"^bbox_head\.scales_bbox\.(\d)\.scale$", r"head.scales.\1"),
    (r"^bbox_head\.scales_mask\.(\d)\.scale$", r"ray_head.scales.\1"),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> ours (``polarmask_r50_fpn``)."""
    return rename(state, RULES, "PolarMask")
