"""The YOLACT authors' own weights (github.com/dbolya/yolact, MIT) as ours: YOLACT and YOLACT++ alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.structures import UserError
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^backbone\.(conv1|bn1)\.", r"backbone.backbone.\1."),
    *(
        (rf"^backbone\.layers\.{i}\.(.*)\.conv_offset_mask\.", rf"backbone.backbone.layer{i + 1}.\1.offsets.")
        for i in range(4)
    ),
    *((rf"^backbone\.layers\.{i}\.", f"backbone.backbone.layer{i + 1}.") for i in range(4)),
    # The pyramid's layers are counted from the coarsest map.
    *((rf"^fpn\.lat_layers\.{i}\.", f"backbone.lateral.{2 - i}.") for i in range(3)),
    *((rf"^fpn\.pred_layers\.{i}\.", f"backbone.smooth.{2 - i}.") for i in range(3)),
    (r"^fpn\.downsample_layers\.(?=[01]\.)", "backbone.extra."),
    *((rf"^proto_net\.{i}\.", f"protonet.{j}.") for i, j in ((0, 0), (2, 2), (4, 4), (8, 7), (10, 9))),
    (r"^prediction_layers\.0\.upfeature\.0\.", "head.shared.0."),
    (r"^prediction_layers\.0\.conf_layer\.", "head.classes."),
    (r"^prediction_layers\.0\.bbox_layer\.", "head.deltas."),
    (r"^prediction_layers\.0\.mask_layer\.", "head.coefficients."),
    (r"^semantic_seg_conv\.", "semantic."),
    (r"^maskiou_net\.maskiou_net\.(\d+)\.", r"mask_iou.\1."),
    # Left over in files of early versions, as the release's own reading says.
    (r"^backbone\.layer\d|^fpn\.downsample_layers\.(?![01]\.)", ""),
)


CLASSES = ("head.classes.weight", "head.classes.bias")
"""Per anchor one row for each class and one for the background."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the release -> of :class:`~eachmask.models.instance.yolact.YOLACT` (or ``YOLACTPlus``).

    Raises:
        UserError: the weights are of another model.
    """
    renamed = rename(state, RULES, "YOLACT")
    missing = [name for name in (*CLASSES, "semantic.bias") if name not in renamed]
    if missing:
        raise UserError(f"these are not all weights of YOLACT: what becomes {', '.join(missing)} is not among them")
    num_classes = len(renamed["semantic.bias"])
    for name in CLASSES:
        per_anchor = torch.unflatten(renamed[name], 0, (-1, num_classes + 1))
        renamed[name] = torch.roll(per_anchor, -1, dims=1).flatten(0, 1)  # background is first there
    return renamed
