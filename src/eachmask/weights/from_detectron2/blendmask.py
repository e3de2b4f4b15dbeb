"""BlendMask in Detectron2's layout (AdelaiDet's ``BlendMask/R_50_1x``)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.from_detectron2.condinst import fcos, scalars
from eachmask.weights.renaming import Rule, rename

_SEMANTIC = r"^basis_module\.seg_head\."

RULES: tuple[Rule, ...] = (
    *fpn(first=3),
    *fcos(),
    (r"^top_layer\.", "attention."),
    (r"^basis_module\.(refine|tower)\.", r"basis.\1."),
    *((rf"{_SEMANTIC}{3 * i + place}\.", f"basis.semantic.{i}.{place}.") for i in (0, 1) for place in (0, 1)),
    (_SEMANTIC + r"6\.", "basis.semantic.2."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict -> ours (``blendmask_r50_fpn``); their background is the first class of pixels, ours the last.

    Raises:
        UserError: an entry that no rule knows.
    """
    result = scalars(rename(state, RULES, "AdelaiDet"))
    return {name: v.roll(-1, 0) if name.startswith("basis.semantic.2.") else v for name, v in result.items()}
