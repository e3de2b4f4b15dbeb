"""Weights of EfficientSAM (github.com/yformer/EfficientSAM, Apache-2.0) as ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.structures import UserError
from eachmask.weights.from_sam import DECODER, NECK, with_kinds
from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "prompts.position.frequencies"),
    (r"^prompt_encoder\.point_embeddings\.weight$", "prompts.kinds.1"),
    (r"^prompt_encoder\.bbox_top_left_embeddings\.weight$", "prompts.kinds.2"),
    (r"^prompt_encoder\.bbox_bottom_right_embeddings\.weight$", "prompts.kinds.3"),
    (r"^prompt_encoder\.invalid_points\.weight$", "prompts.kinds.4"),
    (
        r"^mask_decoder\.transformer\.layers\.(\d+)\.mlp\.layers\.0\.0\.",
        r"decoder.transformer.blocks.\1.mlp.layers.0.",
    ),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.mlp\.fc\.", r"decoder.transformer.blocks.\1.mlp.layers.1."),
    (r"^mask_decoder\.final_output_upscaling_layers\.0\.0\.", "decoder.enlarge.first."),
    (r"^mask_decoder\.final_output_upscaling_layers\.0\.1\.", "decoder.enlarge.norm."),
    (r"^mask_decoder\.final_output_upscaling_layers\.1\.0\.", "decoder.enlarge.second."),
    (r"^mask_decoder\.output_hypernetworks_mlps\.(\d+)\.layers\.(\d)\.0\.", r"decoder.classifiers.\1.layers.\2."),
    (r"^mask_decoder\.output_hypernetworks_mlps\.(\d+)\.fc\.", r"decoder.classifiers.\1.layers.2."),
    (r"^mask_decoder\.iou_prediction_head\.layers\.(\d)\.0\.", r"decoder.iou.layers.\1."),
    (r"^mask_decoder\.iou_prediction_head\.fc\.", "decoder.iou.layers.2."),
    *DECODER,
    *NECK,
    (r"^image_encoder\.pos_embed$", "encoder.positions"),
    (r"^image_encoder\.patch_embed\.proj\.", "encoder.patches."),
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"encoder.blocks.\1.norm\2."),
    (r"^image_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"encoder.blocks.\1.qkv."),
    (r"^image_encoder\.blocks\.(\d+)\.attn\.proj\.", r"encoder.blocks.\1.out."),
    (r"^image_encoder\.blocks\.(\d+)\.mlp\.fc1\.", r"encoder.blocks.\1.mlp.0."),
    (r"^image_encoder\.blocks\.(\d+)\.mlp\.fc2\.", r"encoder.blocks.\1.mlp.2."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the release -> of :class:`~eachmask.models.promptable.efficient_sam.EfficientSAM`.

    Raises:
        UserError: the weights are of another model.
    """
    renamed = rename(state, RULES, "EfficientSAM")
    if "prompts.kinds.1" not in renamed or "encoder.positions" not in renamed:
        raise UserError("these are not all weights of EfficientSAM: its points or positions are not among them")
    renamed["prompts.kinds.0"] = torch.zeros_like(renamed["prompts.kinds.1"])  # beside the object: nothing is added
    places = renamed["encoder.positions"][:, 1:]  # the first is of a class token that is not there
    side = round(places.shape[1] ** 0.5)
    renamed["encoder.positions"] = places.unflatten(1, (side, side))
    return with_kinds(renamed)
