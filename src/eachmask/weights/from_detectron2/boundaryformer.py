"""BoundaryFormer's checkpoints (``boundaryformer_rcnn_R_50_FPN_*``), in Detectron2's layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2 import two_stage
from eachmask.weights.renaming import Rule, rename

_HEAD = r"^roi_heads\.mask_head\."
_LAYER = _HEAD + r"decoder\.layers\.(\d)\."
_OURS = {
    r"inner\.cross_attn\.sampling_offsets": "look.offsets",
    r"inner\.cross_attn\.attention_weights": "look.weights",
    r"inner\.cross_attn\.value_proj": "look.values",
    r"inner\.cross_attn\.output_proj": "look.output",
    r"inner\.self_attn\.out_proj": "talk.out_proj",
    r"inner\.norm1": "look_norm",
    r"inner\.norm2": "talk_norm",
    r"inner\.norm3": "think_norm",
    r"inner\.linear1": "think.0",
    r"inner\.linear2": "think.2",
}

RULES: tuple[Rule, ...] = (
    (_HEAD + r"level_embed\.weight$", "polygon_head.levels"),
    *((_HEAD + rf"xy_embed\.(\d)\.layers\.{i}\.", rf"polygon_head.steps.\1.{2 * i}.") for i in range(3)),
    (_HEAD + r"decoder\.xy_embed\.", ""),  # the same tensors once more
    (_HEAD + r"(decoder\.layers\.\d\.)?point_embedding$", ""),  # computed
    (_HEAD + r"vertex_loss_fn_mask\.", ""),  # constants of the loss
    (_LAYER + r"inner\.self_attn\.in_proj_", r"polygon_head.layers.\1.talk.in_proj_"),
    *((_LAYER + rf"{theirs}\.", rf"polygon_head.layers.\1.{ours}.") for theirs, ours in _OURS.items()),
    *two_stage.RULES,
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict -> ours (``boundaryformer_r50_fpn``).

    Raises:
        UserError: an entry that no rule knows.
    """
    return rename(state, RULES, "BoundaryFormer")
