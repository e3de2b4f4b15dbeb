"""Weights of MobileSAM (github.com/ChaoningZhang/MobileSAM, Apache-2.0) as ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_sam import DECODER, NECK, PROMPTS, with_kinds
from eachmask.weights.renaming import Rule, rename

_LAYER = r"^image_encoder\.layers\.(\d)\."
_PARTS = (("c", "0"), ("bn", "1"))

RULES: tuple[Rule, ...] = (
    *PROMPTS,
    *DECODER,
    *NECK,
    (r"^image_encoder\.(norm_head|head)\.", ""),
    *((rf"^image_encoder\.patch_embed\.seq\.(\d)\.{part}\.", rf"encoder.patches.\1.{i}.") for part, i in _PARTS),
    *(
        (rf"{_LAYER}blocks\.(\d+)\.conv{n + 1}\.{part}\.", rf"encoder.stages.\1.\2.layers.{2 * n}.{i}.")
        for n in range(3)
        for part, i in _PARTS
    ),
    *(
        (rf"{_LAYER}downsample\.conv{n + 1}\.{part}\.", rf"encoder.merges.\1.{2 * n}.{i}.")
        for n in range(3)
        for part, i in _PARTS
    ),
    *((rf"{_LAYER}blocks\.(\d+)\.local_conv\.{part}\.", rf"encoder.stages.\1.\2.local.{i}.") for part, i in _PARTS),
    (rf"{_LAYER}blocks\.(\d+)\.attn\.attention_biases$", r"encoder.stages.\1.\2.attention.biases"),
    (rf"{_LAYER}blocks\.(\d+)\.attn\.attention_bias_idxs$", ""),
    (rf"{_LAYER}blocks\.(\d+)\.attn\.(norm|qkv)\.", r"encoder.stages.\1.\2.attention.\3."),
    (rf"{_LAYER}blocks\.(\d+)\.attn\.proj\.", r"encoder.stages.\1.\2.attention.out."),
    (rf"{_LAYER}blocks\.(\d+)\.mlp\.norm\.", r"encoder.stages.\1.\2.mlp.0."),
    (rf"{_LAYER}blocks\.(\d+)\.mlp\.fc1\.", r"encoder.stages.\1.\2.mlp.1."),
    (rf"{_LAYER}blocks\.(\d+)\.mlp\.fc2\.", r"encoder.stages.\1.\2.mlp.3."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the release -> of :func:`~eachmask.models.promptable.mobile_sam.mobile_sam`.

    Raises:
        UserError: the weights are of another model.
    """
    return with_kinds(rename(state, RULES, "MobileSAM"))
