"""MaskFormer's weights, as the authors publish them (on Detectron2) and as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_detectron2.backbone import COMPUTED, resnet
from eachmask.weights.from_mask2former import query_layers, with_original_swin, with_transformers_swin
from eachmask.weights.renaming import Rule, unwrapped

_PIXELS, _QUERIES = r"^sem_seg_head\.pixel_decoder\.", r"^sem_seg_head\.predictor\."
_ENCODER, _DECODER = (
    rf"{_PIXELS}transformer\.encoder\.layers\.(\d+)\.",
    rf"{_QUERIES}transformer\.decoder\.layers\.(\d+)\.",
)
AUTHORS: tuple[Rule, ...] = (
    *resnet(r"backbone\.", "backbone."),
    (rf"{_PIXELS}input_proj\.", "pixel_decoder.input."),
    (rf"{_QUERIES}input_proj\.", "pixel_decoder.input."),
    (rf"{_ENCODER}self_attn\.", r"pixel_decoder.layers.\1.talk."),
    (rf"{_ENCODER}linear1\.", r"pixel_decoder.layers.\1.think.0."),
    (rf"{_ENCODER}linear2\.", r"pixel_decoder.layers.\1.think.2."),
    (rf"{_ENCODER}norm1\.", r"pixel_decoder.layers.\1.talk_norm."),
    (rf"{_ENCODER}norm2\.", r"pixel_decoder.layers.\1.think_norm."),
    (rf"{_PIXELS}mask_features\.", "pixel_decoder.masks."),
    (rf"{_PIXELS}layer_4\.norm\.", "pixel_decoder.stem.1."),
    (rf"{_PIXELS}layer_4\.", "pixel_decoder.stem.0."),
    *(
        (rf"{_PIXELS}{theirs}_{3 - i}\.{layer}", f"pixel_decoder.{ours}.{i}.{number}.")
        for i in range(3)
        for theirs, ours in (("adapter", "lateral"), ("layer", "smooth"))
        for layer, number in ((r"norm\.", 1), ("", 0))
    ),
    (rf"{_DECODER}self_attn\.", r"layers.\1.talk."),
    (rf"{_DECODER}multihead_attn\.", r"layers.\1.look."),
    (rf"{_DECODER}linear1\.", r"layers.\1.think.0."),
    (rf"{_DECODER}linear2\.", r"layers.\1.think.2."),
    (rf"{_DECODER}norm1\.", r"layers.\1.talk_norm."),
    (rf"{_DECODER}norm2\.", r"layers.\1.look_norm."),
    (rf"{_DECODER}norm3\.", r"layers.\1.think_norm."),
    (rf"{_QUERIES}transformer\.decoder\.norm\.", "norm."),
    (rf"{_QUERIES}query_embed\.weight$", "position"),
    (rf"{_QUERIES}class_embed\.", "classes."),
    (rf"{_QUERIES}mask_embed\.layers\.(\d)\.", r"mask_embed.\1."),
    (r"^criterion\.", ""),
    *COMPUTED,
)  # fmt: skip
_PIXELS, _MODULE = r"^model\.pixel_level_module\.decoder\.", r"^model\.transformer_module\."
TRANSFORMERS: tuple[Rule, ...] = (
    (rf"{_PIXELS}fpn\.stem\.", "pixel_decoder.stem."),
    (rf"{_PIXELS}fpn\.layers\.(\d)\.proj\.", r"pixel_decoder.lateral.\1."),
    (rf"{_PIXELS}fpn\.layers\.(\d)\.block\.", r"pixel_decoder.smooth.\1."),
    (rf"{_PIXELS}mask_projection\.", "pixel_decoder.masks."),
    (rf"{_MODULE}input_projection\.", "pixel_decoder.input."),
    (rf"{_MODULE}queries_embedder\.weight$", "position"),
    (rf"{_MODULE}decoder\.layernorm\.", "norm."),
    *query_layers(rf"{_MODULE}decoder\.", "", "encoder_attn"),
    (r"^mask_embedder\.(\d)\.0\.", r"mask_embed.\1."),
    (r"^class_predictor\.", "classes."),
    (r"^criterion\.", ""),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Either project's state dict -> ours.

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    if "class_predictor.weight" in state:
        return with_transformers_swin(state, TRANSFORMERS)
    return with_original_swin(state, AUTHORS, "MaskFormer")
