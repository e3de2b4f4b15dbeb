"""The SOLO authors' checkpoints, renamed to ours.

They are for academic use only: convert files that you have the right to use; the catalogue names none.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename

_CONV = {"conv": 0, "gn": 1}
"""Their convolution modules are our sequences."""


def _tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple((rf"^bbox_head\.{theirs}\.(\d)\.{part}\.", rf"{ours}.\1.{i}.") for part, i in _CONV.items())


RULES: tuple[Rule, ...] = (
    *fpn(4),
    *_tower("cate_convs", "categories.convs"),
    (r"^bbox_head\.d?solo_cate\.", "categories.output."),
    # SOLO
    *_tower("ins_convs", "mask_branch.convs"),
    *_tower("ins_convs_x", "mask_branch.x_convs"),
    *_tower("ins_convs_y", "mask_branch.y_convs"),
    (r"^bbox_head\.solo_ins_list\.(\d)\.", r"mask_branch.masks.\1."),
    (r"^bbox_head\.dsolo_ins_list_(x|y)\.(\d)\.", r"mask_branch.\1_masks.\2."),
    # SOLOv2
    *_tower("kernel_convs", "kernels.convs"),
    (r"^bbox_head\.solo_kernel\.", "kernels.output."),
    *(
        (rf"^mask_feat_head\.convs_all_levels\.(\d)\.conv(\d)\.{part}\.", rf"mask_branch.levels.\1.\2.{i}.")
        for part, i in _CONV.items()
    ),
    *((rf"^mask_feat_head\.conv_pred\.0\.{part}\.", f"mask_branch.output.{i}.") for part, i in _CONV.items()),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict of any of these models -> that of our variant of the same name.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "SOLO's repository")
