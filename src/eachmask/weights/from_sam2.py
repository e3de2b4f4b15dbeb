"""Weights of SAM 2.1 (github.com/facebookresearch/sam2, Apache-2.0) as ours: those that images need, or all of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_sam import DECODER, PROMPTS, with_kinds
from eachmask.weights.renaming import Rule, rename

_BLOCK = r"^image_encoder\.trunk\.blocks\.(\d+)\."

_LAYER = r"^memory_attention\.layers\.(\d+)\."
_FUSER = r"^memory_encoder\.fuser\.layers\.(\d+)\."

MEMORY: tuple[Rule, ...] = (
    (r"^no_mem_pos_enc$", ""),  # nothing reads it
    (r"^maskmem_tpos_enc$", "times"),
    (r"^no_obj_ptr$", "no_pointer"),
    (r"^no_obj_embed_spatial$", "no_object"),
    (r"^mask_downsample\.", "given_mask."),
    (r"^obj_ptr_proj\.", "pointer."),
    (r"^obj_ptr_tpos_proj\.", "pointer_time."),
    (rf"{_LAYER}self_attn\.(q|k|v|out)_proj\.", r"memory_attention.layers.\1.self_attention.\2."),
    (rf"{_LAYER}cross_attn_image\.(q|k|v|out)_proj\.", r"memory_attention.layers.\1.to_memory.\2."),
    *((rf"{_LAYER}linear{i + 1}\.", rf"memory_attention.layers.\1.mlp.layers.{i}.") for i in range(2)),
    *((rf"{_LAYER}norm{i + 1}\.", rf"memory_attention.layers.\1.norms.{i}.") for i in range(3)),
    (r"^memory_attention\.norm\.", "memory_attention.norm."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.", "memory_encoder.masks."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.features."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.out."),
    (rf"{_FUSER}gamma$", r"memory_encoder.fuser.\1.gamma"),
    (rf"{_FUSER}dwconv\.", r"memory_encoder.fuser.\1.around."),
    (rf"{_FUSER}norm\.", r"memory_encoder.fuser.\1.norm."),
    *((rf"{_FUSER}pwconv{i + 1}\.", rf"memory_encoder.fuser.\1.mlp.layers.{i}.") for i in range(2)),
)
"""What remembers earlier frames."""

RULES: tuple[Rule, ...] = (
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
    return with_kinds(rename(state, (*((pattern, "") for pattern, _ in MEMORY), *RULES), "SAM 2"))


def convert_video(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the release -> of :class:`~eachmask.models.video.sam2_video.SAM2Video`.

    Raises:
        UserError: the weights are of another model.
    """
    return with_kinds(rename(state, (*MEMORY, *RULES), "SAM 2"))
