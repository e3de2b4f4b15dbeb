"""MMSegmentation's PointRend (``pointrend_r50``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights import from_mmseg_semfpn
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    *((theirs.replace("^decode_head", r"^decode_head\.0"), ours) for theirs, ours in from_mmseg_semfpn.RULES),
    (r"^decode_head\.1\.fcs\.(\d)\.conv\.", r"point_head.layers.\1."),
    (r"^decode_head\.1\.fc_seg\.", "point_head.classes."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict -> that of our ``pointrend_semantic_r50_mmseg``.

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "MMSegmentation")
