"""RTMDet-Ins, all sizes: ``rtmdet-ins_{tiny,s,m,l,x}_8xb32-300e_coco``.

Their box branch *is* their class branch: the same modules under two names, of which we keep one. They also list each
shared convolution once per level.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.structures import UserError
from eachmask.weights.renaming import Rule, rename, unwrapped


def _csp(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of one stage."""
    block = rf"^{theirs}\.blocks\.(\d+)\."
    return (
        *((rf"^{theirs}\.{part}_conv\.", f"{ours}.{part}.") for part in ("main", "short", "final")),
        (rf"^{theirs}\.attention\.fc\.", f"{ours}.attention.fc."),
        (block + r"conv1\.", rf"{ours}.blocks.\1.conv."),
        (block + r"conv2\.(depthwise|pointwise)_conv\.", rf"{ours}.blocks.\1.\2."),
    )


RULES: tuple[Rule, ...] = (
    (r"^backbone\.stem\.", "backbone.backbone.stem."),
    *((rf"^backbone\.stage{i + 1}\.0\.", f"backbone.backbone.stages.{i}.0.") for i in range(4)),
    (r"^backbone\.stage4\.1\.conv1\.", "backbone.backbone.stages.3.1.reduce."),
    (r"^backbone\.stage4\.1\.conv2\.", "backbone.backbone.stages.3.1.expand."),
    *(
        rule
        for i, place in enumerate((1, 1, 1, 2))
        for rule in _csp(rf"backbone\.stage{i + 1}\.{place}", f"backbone.backbone.stages.{i}.{place}")
    ),
    (r"^neck\.reduce_layers\.", "backbone.reduce."),
    (r"^neck\.downsamples\.", "backbone.downsample."),
    (r"^neck\.out_convs\.", "backbone.out."),
    *(
        rule
        for way in ("top_down", "bottom_up")
        for i in range(2)
        for rule in _csp(rf"neck\.{way}_blocks\.{i}", f"backbone.{way}.{i}")
    ),
    (r"^bbox_head\.cls_convs\.0\.(\d)\.conv\.", r"heads.tower.convs.\1."),
    (r"^bbox_head\.cls_convs\.[12]\.\d\.conv\.", ""),
    (r"^bbox_head\.cls_convs\.(\d)\.(\d)\.bn\.", r"heads.tower.norms.\1.\2."),
    (r"^bbox_head\.reg_convs\.", ""),
    (r"^bbox_head\.kernel_convs\.", "heads.kernel_towers."),
    (r"^bbox_head\.rtm_cls\.", "heads.classes."),
    (r"^bbox_head\.rtm_reg\.", "heads.distances."),
    (r"^bbox_head\.rtm_kernel\.", "heads.kernels."),
    (r"^bbox_head\.mask_head\.fusion_conv\.", "heads.mask_features.fuse."),
    (r"^bbox_head\.mask_head\.stacked_convs\.", "heads.mask_features.convs."),
    (r"^bbox_head\.mask_head\.projection\.", "heads.mask_features.project."),
    (r"^data_preprocessor\.", ""),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's state dict -> ours.

    Raises:
        UserError: an unknown entry, or a box branch of its own, which this model has not.
    """
    state = unwrapped(state)
    for name, value in state.items():
        twin = state.get(name.replace("reg_convs", "cls_convs"))
        if "reg_convs" in name and (twin is None or not torch.equal(value, twin)):
            raise UserError(f"{name} differs from the class branch: these weights are of another kind of RTMDet-Ins")
    return rename(state, RULES, "MMDetection")
