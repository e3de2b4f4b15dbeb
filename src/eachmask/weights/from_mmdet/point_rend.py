"""MMDetection's PointRend (``point-rend_r50-caffe_fpn_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet import two_stage
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^roi_head\.mask_head\.downsample_conv\.conv\.", "coarse_head.reduce."),
    (r"^roi_head\.mask_head\.fcs\.", "coarse_head.layers."),
    (r"^roi_head\.mask_head\.fc_logits\.", "coarse_head.outputs."),
    (r"^roi_head\.point_head\.fcs\.(\d)\.conv\.", r"point_head.layers.\1."),
    (r"^roi_head\.point_head\.fc_logits\.", "point_head.classes."),
    *two_stage.RULES,
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's state dict -> ours (``pointrend_r50_fpn_mmdet``)."""
    return rename(state, RULES, "MMDetection")
