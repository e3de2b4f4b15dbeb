"""MMSegmentation's Semantic FPN (``fpn_r50_*``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^backbone\.stem\.", "backbone.backbone.stem."),
    *(
        (rf"^decode_head\.scale_heads\.(\d)\.{2 * i}\.{theirs}\.", rf"head.scales.\1.{i}.{number}.")
        for i in range(3)
        for theirs, number in (("conv", 0), ("bn", 1))
    ),
    (r"^decode_head\.conv_seg\.", "head.classes."),
    *fpn(4),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict -> ours (``semantic_fpn_r50_mmseg``).

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "MMSegmentation")
