"""torchvision's RetinaNet (``retinanet_resnet50_fpn``).

It counts background as class 0 although nothing ever is of that class; ours has no background.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.weights.renaming import Rule, rename

NUM_ANCHORS = 9
"""Per place: each has its logits behind one another."""

RULES: tuple[Rule, ...] = (
    (r"^backbone\.body\.", "backbone.backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?", r"backbone.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?", r"backbone.smooth.\1."),
    (r"^backbone\.fpn\.extra_blocks\.p6\.", "backbone.extra.0."),
    (r"^backbone\.fpn\.extra_blocks\.p7\.", "backbone.extra.1."),
    # The official file has the names of older releases, in which a ReLU stood between two convolutions.
    *(
        (rf"^head\.{theirs}\.conv\.{number}\.(?=weight|bias)", f"head.{ours}.{i}.0.")
        for theirs, ours in (("classification_head", "class_tower"), ("regression_head", "box_tower"))
        for i, number in enumerate((0, 2, 4, 6))
    ),
    (r"^head\.classification_head\.conv\.(\d)\.0\.", r"head.class_tower.\1.0."),
    (r"^head\.regression_head\.conv\.(\d)\.0\.", r"head.box_tower.\1.0."),
    (r"^head\.classification_head\.cls_logits\.", "head.classes."),
    (r"^head\.regression_head\.bbox_reg\.", "head.deltas."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict -> ours (``retinanet_r50_fpn_torchvision`` with ``norm_eps=0``)."""
    result = rename(state, RULES, "torchvision")
    for name in ("head.classes.weight", "head.classes.bias"):
        if name in result:
            result[name] = torch.unflatten(result[name], 0, (NUM_ANCHORS, -1))[:, 1:].flatten(0, 1).contiguous()
    return result
