"""MMDetection's YOLACT (``yolact_r50_1x8_coco`` and its siblings) as ours, for ``config=MMDETECTION``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    *fpn(3),
    (r"^bbox_head\.head_convs\.0\.conv\.", "head.shared.0."),
    (r"^bbox_head\.conv_cls\.", "head.classes."),
    (r"^bbox_head\.conv_reg\.", "head.deltas."),
    (r"^bbox_head\.conv_coeff\.", "head.coefficients."),
    (r"^(?:mask_head|bbox_head)\.segm_branch\.segm_conv\.|^segm_head\.segm_conv\.", "semantic."),
    *((rf"^mask_head\.protonet\.{i}\.", f"protonet.{j}.") for i, j in ((0, 0), (2, 2), (4, 4), (8, 7), (10, 9))),
)
"""Version 2 keeps the semantic branch beside the heads (``segm_head``), version 3 inside of them."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of MMDetection's model -> of :class:`~eachmask.models.instance.yolact.YOLACT`.

    Both have the background last and the same order of anchors.

    Raises:
        UserError: the weights are of another model.
    """
    return rename(state, RULES, "MMDetection")
