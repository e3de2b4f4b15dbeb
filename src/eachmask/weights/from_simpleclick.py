"""SimpleClick's checkpoints (uncbiag/SimpleClick): a few names, and what their network has but never uses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

RULES: tuple[Rule, ...] = (
    (r"^backbone\.(cls_token|fc_norm|head)", ""),  # of the pretraining
    (r"^head\.up_conv\d\.", ""),  # of outputs finer than a quarter
    (r"^patch_embed_coords\.proj\.", "click_embed."),
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed."),
    (r"^backbone\.", "backbone."),
    (r"^neck\.down_4\.", "pyramid.levels.0."),
    (r"^neck\.down_8\.", "pyramid.levels.1."),
    (r"^neck\.down_16\.", "pyramid.levels.2."),
    (r"^neck\.down_32\.", "pyramid.levels.3."),
    (r"^head\.convs\.(\d)\.conv\.", r"head.convs.\1."),
    (r"^head\.fusion_conv\.conv\.", "head.fusion."),
    (r"^head\.conv_seg\.", "head.mask."),
)

LICENSE = "MIT (code and weights of the checkpoint's makers)"


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SimpleClick's state dict -> ours (``simpleclick_vit_b`` and its kin)."""
    result = rename(state, RULES, "SimpleClick")
    positions = result["backbone.pos_embed"]
    return result | {"backbone.pos_embed": positions[:, 1:]}  # the first one is the class token's
