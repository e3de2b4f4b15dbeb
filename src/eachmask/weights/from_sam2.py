"""Weights of SAM 2.1 (github.com/facebookresearch/sam2, Apache-2.0) as ours: those that images need."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_sam import DECODER, PROMPTS, with_kinds
from eachmask.weights.renaming import Rule, rename

_BLOCK = r"^image_encoder\.trunk\.blocks\.(\d+)\."

RULES: tuple[Rule, ...] = (
    # What remembers earlier frames
    (
        r"^(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$"
        r"|^(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj)\.",
        "",
    ),
    (r"^no_mem_embed$", "no_memory"),
    *PROMPTS,
    *DECODER,
    (r"^sam_mask_decoder\.obj_score_token\.", "decoder.presence_token."),
    (r"^sam_mask_decoder\.pred_obj_score_head\.", "decoder.presence."),
    (r"^sam_mask_decoder\.conv_s0\.", "at_quarter."),
    (r"^sam_mask_decoder\.conv_s1\.", "at_half."),
    *((rf"^image_encoder\.neck\.convs\.{i}\.conv\.", f"neck.lateral.{3 - i}.") for i in range(4)),
    (r"^image_encoder\.trunk\.pos_embed$", "encoder.positions"),
    (r"^image_encoder\.trunk\.pos_embed_window$", "encoder.window_positions"),
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "encoder.patches."),
    (rf"{_BLOCK}norm(\d)\.", r"encoder.blocks.\1.norm\2."),
    (rf"{_BLOCK}attn\.qkv\.", r"encoder.blocks.\1.attention.qkv."),
    (rf"{_BLOCK}attn\.proj\.", r"encoder.blocks.\1.attention.out."),
    (rf"{_BLOCK}mlp\.layers\.0\.", r"encoder.blocks.\1.mlp.0."),
    (rf"{_BLOCK}mlp\.layers\.1\.", r"encoder.blocks.\1.mlp.2."),
    (rf"{_BLOCK}proj\.", r"encoder.blocks.\1.shortcut."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the release -> of :class:`~eachmask.models.promptable.sam2.SAM2`.

    Raises:
        UserError: the weights are of another model.
    """
    return with_kinds(rename(state, RULES, "SAM 2"))
