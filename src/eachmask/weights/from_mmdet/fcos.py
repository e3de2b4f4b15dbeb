"""MMDetection's FCOS (``fcos_r50-caffe_fpn_gn-head*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

HEAD: tuple[Rule, ...] = (
    (r"^bbox_head\.cls_convs\.(\d)\.conv\.", r"head.class_tower.\1.0."),
    (r"^bbox_head\.cls_convs\.(\d)\.gn\.", r"head.class_tower.\1.1."),
    (r"^bbox_head\.reg_convs\.(\d)\.conv\.", r"head.box_tower.\1.0."),
    (r"^bbox_head\.reg_convs\.(\d)\.gn\.", r"head.box_tower.\1.1."),
    (r"^bbox_head\.conv_cls\.", "head.classes."),
    (r"^bbox_head\.conv_reg\.", "head.distances."),
    (r"^bbox_head\.conv_centerness\.", "head.centerness."),
    (r"^bbox_head\.scales\.(\d)\.scale$", r"head.scales.\1"),
)
"""The head alone, which other models of MMDetection have too."""

RULES: tuple[Rule, ...] = (*fpn(3), *HEAD)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's state dict -> ours (``fcos_r50_fpn``)."""
    return rename(state, RULES, "MMDetection")
