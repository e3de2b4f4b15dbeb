"""The SOLO authors' checkpoints, renamed to ours.

Their code is built on an early MMDetection, whose later SOLO has the same modules under other names: entries get those
names first, and from there on are MMDetection's. They are for academic use only: convert files that you have the right
to use; the catalogue names none.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet import solo
from eachmask.weights.renaming import Rule, rename

PROJECT = "SOLO's repository"

TO_MMDETECTION: tuple[Rule, ...] = (
    (r"^(backbone|neck)\.", r"\1."),
    (r"^bbox_head\.cate_convs\.", "mask_head.cls_convs."),
    (r"^bbox_head\.d?solo_cate\.", "mask_head.conv_cls."),
    # SOLO, plain and decoupled
    (r"^bbox_head\.ins_convs(_x|_y|)\.", r"mask_head.mask_convs\1."),
    (r"^bbox_head\.d?solo_ins_list(_x|_y|)\.", r"mask_head.conv_mask_list\1."),
    # SOLOv2
    (r"^bbox_head\.kernel_convs\.", "mask_head.kernel_convs."),
    (r"^bbox_head\.solo_kernel\.", "mask_head.conv_kernel."),
    (r"^mask_feat_head\.conv_pred\.0\.", "mask_head.mask_feature_head.conv_pred."),
    (r"^mask_feat_head\.convs_all_levels\.", "mask_head.mask_feature_head.convs_all_levels."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict of any of these models -> that of our variant of the same name.

    Raises:
        UserError: an entry that no rule knows.
    """
    return solo.convert(rename(state, TO_MMDETECTION, PROJECT), PROJECT)
