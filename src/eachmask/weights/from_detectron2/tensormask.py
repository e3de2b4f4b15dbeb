"""Detectron2's TensorMask project (``tensormask_R_50_FPN_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.renaming import Rule, rename

_TOWERS = (("cls_subnet", "class_tower"), ("bbox_subnet", "box_tower"), ("mask_subnet", "mask_tower"))
_WINDOWS = (11, 15)

RULES: tuple[Rule, ...] = (
    *fpn(),
    *((rf"^head\.{theirs}\.{2 * i}\.", f"head.{ours}.{i}.0.") for theirs, ours in _TOWERS for i in range(4)),
    (r"^head\.cls_score\.", "head.classes."),
    (r"^head\.bbox_pred\.", "head.deltas."),
    (r"^head\.mask_fuse\.0\.", "head.fuse.0.0."),
    *((rf"^head\.mask_pred_{window}\.", f"head.masks.{i}.") for i, window in enumerate(_WINDOWS)),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict -> ours (``tensormask_r50_fpn``)."""
    return rename(state, RULES, "Detectron2")
