"""Weights of Segment Anything (github.com/facebookresearch/segment-anything, Apache-2.0) as ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.weights.renaming import Rule, rename

PROMPTS: tuple[Rule, ...] = (
    (r"^(?:sam_)?prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "prompts.position.frequencies"),
    (r"^(?:sam_)?prompt_encoder\.point_embeddings\.(\d)\.weight$", r"prompts.kinds.\1"),
    (r"^(?:sam_)?prompt_encoder\.not_a_point_embed\.weight$", "prompts.kinds.4"),
    (r"^(?:sam_)?prompt_encoder\.no_mask_embed\.", "prompts.no_mask."),
    (r"^(?:sam_)?prompt_encoder\.mask_downscaling\.", "prompts.masks."),
)

_BLOCK = r"^(?:sam_)?mask_decoder\.transformer\.layers\.(\d+)\."
DECODER: tuple[Rule, ...] = (
    *(
        (rf"{_BLOCK}{theirs}\.(q|k|v|out)_proj\.", rf"decoder.transformer.blocks.\1.{ours}.\2.")
        for theirs, ours in (
            ("self_attn", "self_attention"),
            ("cross_attn_token_to_image", "to_image"),
            ("cross_attn_image_to_token", "from_image"),
        )
    ),
    *((rf"{_BLOCK}norm{i + 1}\.", rf"decoder.transformer.blocks.\1.norms.{i}.") for i in range(4)),
    *((rf"{_BLOCK}mlp\.lin{i + 1}\.", rf"decoder.transformer.blocks.\1.mlp.layers.{i}.") for i in range(2)),
    (rf"{_BLOCK}mlp\.layers\.", r"decoder.transformer.blocks.\1.mlp.layers."),
    (
        r"^(?:sam_)?mask_decoder\.transformer\.final_attn_token_to_image\.(q|k|v|out)_proj\.",
        r"decoder.transformer.last.\1.",
    ),
    (r"^(?:sam_)?mask_decoder\.transformer\.norm_final_attn\.", "decoder.transformer.norm."),
    (r"^(?:sam_)?mask_decoder\.(iou_token|mask_tokens)\.", r"decoder.\1."),
    (r"^(?:sam_)?mask_decoder\.output_upscaling\.0\.", "decoder.enlarge.first."),
    (r"^(?:sam_)?mask_decoder\.output_upscaling\.1\.", "decoder.enlarge.norm."),
    (r"^(?:sam_)?mask_decoder\.output_upscaling\.3\.", "decoder.enlarge.second."),
    (r"^(?:sam_)?mask_decoder\.output_hypernetworks_mlps\.", "decoder.classifiers."),
    (r"^(?:sam_)?mask_decoder\.iou_prediction_head\.", "decoder.iou."),
)

NECK: tuple[Rule, ...] = ((r"^image_encoder\.neck\.", "neck."),)

ENCODER: tuple[Rule, ...] = (
    (r"^image_encoder\.pos_embed$", "encoder.positions"),
    (r"^image_encoder\.patch_embed\.proj\.", "encoder.patches."),
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"encoder.blocks.\1.norm\2."),
    (r"^image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h$", r"encoder.blocks.\1.attention.down"),
    (r"^image_encoder\.blocks\.(\d+)\.attn\.rel_pos_w$", r"encoder.blocks.\1.attention.across"),
    (r"^image_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"encoder.blocks.\1.attention.qkv."),
    (r"^image_encoder\.blocks\.(\d+)\.attn\.proj\.", r"encoder.blocks.\1.attention.out."),
    (r"^image_encoder\.blocks\.(\d+)\.mlp\.lin1\.", r"encoder.blocks.\1.mlp.0."),
    (r"^image_encoder\.blocks\.(\d+)\.mlp\.lin2\.", r"encoder.blocks.\1.mlp.2."),
    *NECK,
)

_KINDS = "prompts.kinds."


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the release -> of :class:`~eachmask.models.promptable.sam.SAM`.

    Raises:
        UserError: the weights are of another model.
    """
    return with_kinds(rename(state, (*PROMPTS, *DECODER, *ENCODER), "Segment Anything"))


def with_kinds(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vectors of the kinds of points in one table, as we keep them."""
    rows = {name: state.pop(name) for name in sorted(state) if name.startswith(_KINDS)}
    return state | {f"{_KINDS}weight": torch.cat([row.reshape(1, -1) for row in rows.values()])}
