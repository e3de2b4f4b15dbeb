"""Mask2Former's weights, as the authors publish them (on Detectron2) and as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eachmask.weights.from_detectron2.backbone import COMPUTED, resnet
from eachmask.weights.renaming import Rule, rename, unwrapped
from eachmask.weights.swin import from_original, from_transformers


def query_layers(theirs: str, ours: str, cross: str) -> tuple[Rule, ...]:
    """transformers' decoder layers, whose cross-attention is called ``cross``, as ours.

    Args:
        theirs: pattern of what stands before ``layers`` in their names; ours: the same in ours.
    """
    parts = {
        "self_attn": "talk", "self_attn_layer_norm": "talk_norm", cross: "look", f"{cross}_layer_norm": "look_norm",
        "fc1": "think.0", "fc2": "think.2", "final_layer_norm": "think_norm",
    }  # fmt: skip
    return tuple((rf"{theirs}layers\.(\d+)\.{a}\.", rf"{ours}layers.\1.{b}.") for a, b in parts.items())


_DEFORMABLE = (
    ("sampling_offsets", "offsets"),
    ("attention_weights", "weights"),
    ("value_proj", "values"),
    ("output_proj", "output"),
)
_PIXELS, _QUERIES = r"^sem_seg_head\.pixel_decoder\.", r"^sem_seg_head\.predictor\."
_LAYER = rf"{_PIXELS}transformer\.encoder\.layers\.(\d+)\."
AUTHORS: tuple[Rule, ...] = (
    *resnet(r"backbone\.", "backbone."),
    (rf"{_PIXELS}input_proj\.", "pixel_decoder.inputs."),
    (rf"{_PIXELS}transformer\.level_embed$", "pixel_decoder.level_embed"),
    *((rf"{_LAYER}self_attn\.{theirs}\.", rf"pixel_decoder.layers.\1.look.{ours}.") for theirs, ours in _DEFORMABLE),
    (rf"{_LAYER}norm1\.", r"pixel_decoder.layers.\1.look_norm."),
    (rf"{_LAYER}linear1\.", r"pixel_decoder.layers.\1.think.0."),
    (rf"{_LAYER}linear2\.", r"pixel_decoder.layers.\1.think.2."),
    (rf"{_LAYER}norm2\.", r"pixel_decoder.layers.\1.think_norm."),
    (rf"{_PIXELS}mask_features\.", "pixel_decoder.masks."),
    (rf"{_PIXELS}adapter_1\.norm\.", "pixel_decoder.lateral.1."),
    (rf"{_PIXELS}adapter_1\.", "pixel_decoder.lateral.0."),
    (rf"{_PIXELS}layer_1\.norm\.", "pixel_decoder.smooth.1."),
    (rf"{_PIXELS}layer_1\.", "pixel_decoder.smooth.0."),
    (rf"{_QUERIES}transformer_self_attention_layers\.(\d+)\.self_attn\.", r"decoder.layers.\1.talk."),
    (rf"{_QUERIES}transformer_self_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.talk_norm."),
    (rf"{_QUERIES}transformer_cross_attention_layers\.(\d+)\.multihead_attn\.", r"decoder.layers.\1.look."),
    (rf"{_QUERIES}transformer_cross_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.look_norm."),
    (rf"{_QUERIES}transformer_ffn_layers\.(\d+)\.linear1\.", r"decoder.layers.\1.think.0."),
    (rf"{_QUERIES}transformer_ffn_layers\.(\d+)\.linear2\.", r"decoder.layers.\1.think.2."),
    (rf"{_QUERIES}transformer_ffn_layers\.(\d+)\.norm\.", r"decoder.layers.\1.think_norm."),
    (rf"{_QUERIES}decoder_norm\.", "decoder.norm."),
    (rf"{_QUERIES}(query_feat|static_query)\.weight$", "decoder.content"),
    (rf"{_QUERIES}query_embed\.weight$", "decoder.position"),
    (rf"{_QUERIES}level_embed\.weight$", "decoder.level_embed"),
    (rf"{_QUERIES}class_embed\.", "decoder.classes."),
    (rf"{_QUERIES}mask_embed\.layers\.(\d)\.", r"decoder.mask_embed.\1."),
    (rf"{_QUERIES}input_proj\.(\d)\.", r"decoder.inputs.\1."),
    (r"^criterion\.", ""),
    *COMPUTED,
)
_DECODER, _MODULE = r"^model\.pixel_level_module\.decoder\.", r"^model\.transformer_module\."
_LAYER = rf"{_DECODER}encoder\.layers\.(\d+)\."
TRANSFORMERS: tuple[Rule, ...] = (
    (rf"{_DECODER}input_projections\.", "pixel_decoder.inputs."),
    (rf"{_DECODER}level_embed$", "pixel_decoder.level_embed"),
    *((rf"{_LAYER}self_attn\.{theirs}\.", rf"pixel_decoder.layers.\1.look.{ours}.") for theirs, ours in _DEFORMABLE),
    (rf"{_LAYER}self_attn_layer_norm\.", r"pixel_decoder.layers.\1.look_norm."),
    (rf"{_LAYER}fc1\.", r"pixel_decoder.layers.\1.think.0."),
    (rf"{_LAYER}fc2\.", r"pixel_decoder.layers.\1.think.2."),
    (rf"{_LAYER}final_layer_norm\.", r"pixel_decoder.layers.\1.think_norm."),
    (rf"{_DECODER}mask_projection\.", "pixel_decoder.masks."),
    (rf"{_DECODER}adapter_1\.", "pixel_decoder.lateral."),
    (rf"{_DECODER}layer_1\.", "pixel_decoder.smooth."),
    *query_layers(rf"{_MODULE}decoder\.", "decoder.", "cross_attn"),
    (rf"{_MODULE}decoder\.layernorm\.", "decoder.norm."),
    (rf"{_MODULE}queries_features\.weight$", "decoder.content"),
    (rf"{_MODULE}queries_embedder\.weight$", "decoder.position"),
    (rf"{_MODULE}level_embed\.weight$", "decoder.level_embed"),
    (rf"{_MODULE}input_projections\.(\d)\.", r"decoder.inputs.\1."),
    (rf"{_MODULE}decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r"decoder.mask_embed.\1."),
    (r"^class_predictor\.", "decoder.classes."),
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
    return with_original_swin(state, AUTHORS, "Mask2Former")


def with_original_swin(state: Mapping[str, Tensor], rules: Sequence[Rule], project: str) -> dict[str, Tensor]:
    """Entries renamed by rules, those of a Swin transformer under ``backbone`` as the authors name them."""
    swin = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    if "patch_embed.proj.weight" not in swin:
        return rename(state, rules, project)
    rest = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    return {f"backbone.{name}": value for name, value in from_original(swin).items()} | rename(rest, rules, project)


def with_transformers_swin(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """transformers' entries renamed by rules, its backbone a Swin transformer; queries, keys and values in one."""
    prefix = "model.pixel_level_module.encoder."
    mine = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    names: tuple[Rule, ...] = (
        *((rf"^hidden_states_norms\.stage{i + 1}\.", f"norms.{i}.") for i in range(4)),
        (r"^hidden_states_norms\.(\d)\.", r"norms.\1."),
        (r"^(swin|model)\.(?=embeddings|encoder|layernorm)", "<"),
        (r"^(?=embeddings|encoder|layernorm)", "<"),
    )
    swin = {name.removeprefix("<"): value for name, value in rename(mine, names, "transformers").items()}
    rest = rename({k: v for k, v in state.items() if not k.startswith(prefix)}, rules, "transformers")
    return {f"backbone.{name}": value for name, value in from_transformers(swin).items()} | fused(rest)


def fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``q_proj``, ``k_proj`` and ``v_proj`` as torch's ``in_proj``."""
    result = {}
    for name, value in state.items():
        if ".q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            result[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            result[name] = value
    return result
