"""MMDetection's RetinaNet (``retinanet_r50_fpn_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    *fpn(3),
    (r"^bbox_head\.cls_convs\.(\d)\.conv\.", r"head.class_tower.\1.0."),
    (r"^bbox_head\.reg_convs\.(\d)\.conv\.", r"head.box_tower.\1.0."),
    (r"^bbox_head\.retina_cls\.", "head.classes."),
    (r"^bbox_head\.retina_reg\.", "head.deltas."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's state dict -> ours (``retinanet_r50_fpn``)."""
    return rename(state, RULES, "MMDetection")
