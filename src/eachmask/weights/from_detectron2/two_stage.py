"""Two-stage models in Detectron2's layout: Faster, Mask and Cascade R-CNN on a pyramid.

Background is their last class too, so entries are only renamed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import fpn
from eachmask.weights.renaming import Rule, rename

_BOX = r"^roi_heads\.box_head\."
_PREDICTOR = r"^roi_heads\.box_predictor\."
_MASK = r"^roi_heads\.mask_head\."

RULES: tuple[Rule, ...] = (
    *fpn(),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.convs.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    *((rf"{_BOX}fc{i + 1}\.", f"box_head.layers.{i}.") for i in range(2)),
    *((rf"{_BOX}(\d)\.fc{i + 1}\.", rf"box_heads.\1.layers.{i}.") for i in range(2)),
    (rf"{_PREDICTOR}cls_score\.", "box_predictor.classes."),
    (rf"{_PREDICTOR}bbox_pred\.", "box_predictor.deltas."),
    (rf"{_PREDICTOR}(\d)\.cls_score\.", r"box_predictors.\1.classes."),
    (rf"{_PREDICTOR}(\d)\.bbox_pred\.", r"box_predictors.\1.deltas."),
    *((rf"{_MASK}mask_fcn{i + 1}\.", f"mask_head.convs.{i}.0.") for i in range(4)),
    (rf"{_MASK}deconv\.", "mask_head.upsample."),
    (rf"{_MASK}predictor\.", "mask_head.masks."),
)
"""Every entry of a two-stage model; models built on them put their own rules before these."""

_FIRST_OF_SEVERAL: tuple[Rule, ...] = ((r"^mask_head\.", "mask_heads.0."), (r"^(.)", r"\1"))
"""Our cascade has a list of mask heads, theirs has one."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's state dict of a two-stage model -> that of our variant.

    Raises:
        UserError: an entry that no rule knows.
    """
    renamed = rename(state, RULES, "Detectron2")
    cascade = any(name.startswith("box_heads.") for name in renamed)
    return rename(renamed, _FIRST_OF_SEVERAL, "Detectron2") if cascade else renamed
