"""Mask2Former of MMDetection (``mask2former_*_coco*``) and of MMSegmentation, whose head is the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights import swin
from eachmask.weights.renaming import Rule, rename, unwrapped

_HEAD = r"^(?:panoptic_head|decode_head)\."
_PIXELS = rf"{_HEAD}pixel_decoder\."
_LAYER = rf"{_PIXELS}encoder\.layers\.(\d+)\."
_DECODER = rf"{_HEAD}transformer_decoder\."
_QUERIES = rf"{_DECODER}layers\.(\d+)\."
_DEFORMABLE = {
    "sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "values", "output_proj": "output",
}  # fmt: skip
_FFN = {r"ffn\.layers\.0\.0": "think.0", r"ffn\.layers\.1": "think.2"}
RULES: tuple[Rule, ...] = (
    (r"^backbone\.(conv1|bn1|layer[1-4])\.", r"backbone.\1."),
    *((rf"{_PIXELS}input_convs\.(\d)\.{a}\.", rf"pixel_decoder.inputs.\1.{i}.") for i, a in enumerate(("conv", "gn"))),
    (rf"{_PIXELS}level_encoding\.weight$", "pixel_decoder.level_embed"),
    *((rf"{_LAYER}self_attn\.{a}\.", rf"pixel_decoder.layers.\1.look.{b}.") for a, b in _DEFORMABLE.items()),
    *((rf"{_LAYER}{a}\.", rf"pixel_decoder.layers.\1.{b}.") for a, b in _FFN.items()),
    *((rf"{_LAYER}norms\.{i}\.", rf"pixel_decoder.layers.\1.{b}_norm.") for i, b in enumerate(("look", "think"))),
    *(
        (rf"{_PIXELS}{a}_convs\.0\.{part}\.", f"pixel_decoder.{b}.{i}.")
        for a, b in (("lateral", "lateral"), ("output", "smooth"))
        for i, part in enumerate(("conv", "gn"))
    ),
    (rf"{_PIXELS}mask_feature\.", "pixel_decoder.masks."),
    *((rf"{_QUERIES}{a}_attn\.attn\.", rf"decoder.layers.\1.{b}.") for a, b in (("cross", "look"), ("self", "talk"))),
    *((rf"{_QUERIES}{a}\.", rf"decoder.layers.\1.{b}.") for a, b in _FFN.items()),
    *((rf"{_QUERIES}norms\.{i}\.", rf"decoder.layers.\1.{b}_norm.") for i, b in enumerate(("look", "talk", "think"))),
    (rf"{_DECODER}post_norm\.", "decoder.norm."),
    (rf"{_HEAD}query_feat\.weight$", "decoder.content"),
    (rf"{_HEAD}query_embed\.weight$", "decoder.position"),
    (rf"{_HEAD}level_embed\.weight$", "decoder.level_embed"),
    (rf"{_HEAD}cls_embed\.", "decoder.classes."),
    *((rf"{_HEAD}mask_embed\.{2 * i}\.", f"decoder.mask_embed.{i}.") for i in range(3)),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Either project's state dict -> that of our ``mask2former_*``.

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    body = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    if not any(name.startswith("stages.") for name in body):
        return rename(state, RULES, "MMDetection")
    heads = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    return {f"backbone.{k}": v for k, v in swin.from_mmdet(body).items()} | rename(heads, RULES, "MMDetection")
