"""MMDetection's CondInst (``condinst_r50_fpn_ms-poly-90k_coco_instance``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet import fcos
from eachmask.weights.renaming import Rule, rename

_BRANCH = r"^mask_head\.mask_feature_head\."

RULES: tuple[Rule, ...] = (
    *fcos.RULES,
    (r"^bbox_head\.controller\.", "controller."),
    (_BRANCH + r"convs_all_levels\.(\d)\.conv\1\.conv\.", r"mask_branch.refine.\1.0."),
    (_BRANCH + r"convs_all_levels\.(\d)\.conv\1\.bn\.", r"mask_branch.refine.\1.1."),
    (_BRANCH + r"conv_branch\.(\d)\.conv\.", r"mask_branch.tower.\1.0."),
    (_BRANCH + r"conv_branch\.(\d)\.bn\.", r"mask_branch.tower.\1.1."),
    (_BRANCH + r"conv_pred\.", "mask_branch.project."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's state dict -> ours (``condinst_r50_fpn``).

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "MMDetection")
