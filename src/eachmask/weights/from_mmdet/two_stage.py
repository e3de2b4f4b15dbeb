"""Two-stage models of MMDetection: Faster, Mask, Cascade and Mask Scoring R-CNN, with FPN or PAFPN, on ResNet or Swin.

Those of Swin's authors are built on it and have the same names.

Background is their last class too, so entries are only renamed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.from_mmdet.backbone import fpn
from eachmask.weights.renaming import Rule, rename, unwrapped
from eachmask.weights.swin import from_mmdet, from_original


def _heads(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of the second stage's heads.

    Args:
        theirs: between ``bbox_head.`` and the layer, as a pattern.
        ours: between ``box_head`` and the layer, with what the pattern found.
    """
    return (
        (rf"^roi_head\.bbox_head\.{theirs}fc_cls\.", rf"box_predictor{ours}.classes."),
        (rf"^roi_head\.bbox_head\.{theirs}fc_reg\.", rf"box_predictor{ours}.deltas."),
        (rf"^roi_head\.bbox_head\.{theirs}shared_fcs\.(\d)\.", rf"box_head{ours}.layers.\{1 + bool(ours)}."),
        (rf"^roi_head\.bbox_head\.{theirs}shared_convs\.(\d)\.conv\.", rf"box_head{ours}.convs.\{1 + bool(ours)}.0."),
        (rf"^roi_head\.bbox_head\.{theirs}shared_convs\.(\d)\.bn\.", rf"box_head{ours}.convs.\{1 + bool(ours)}.1."),
        (rf"^roi_head\.mask_head\.{theirs}convs\.(\d)\.conv\.", rf"mask_head{ours}.convs.\{1 + bool(ours)}.0."),
        (rf"^roi_head\.mask_head\.{theirs}upsample\.", rf"mask_head{ours}.upsample."),
        (rf"^roi_head\.mask_head\.{theirs}conv_logits\.", rf"mask_head{ours}.masks."),
    )


RULES: tuple[Rule, ...] = (
    *fpn(4),
    (r"^neck\.downsample_convs\.(\d)\.conv\.", r"backbone.down.\1."),
    (r"^neck\.pafpn_convs\.(\d)\.conv\.", r"backbone.finish.\1."),
    (r"^rpn_head\.rpn_conv\.", "rpn.convs.0."),
    (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
    (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
    *_heads("", ""),
    *_heads(r"(\d)\.", r"s.\1"),
    (r"^roi_head\.mask_iou_head\.convs\.(\d)\.", r"mask_iou_head.convs.\1."),
    (r"^roi_head\.mask_iou_head\.fcs\.(\d)\.", r"mask_iou_head.layers.\1."),
    (r"^roi_head\.mask_iou_head\.fc_mask_iou\.", "mask_iou_head.ious."),
)
"""Every entry of a two-stage model; models built on them put their own rules before these."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's state dict of a two-stage model -> that of our variant.

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    swin = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    if "patch_embed.norm.weight" not in swin:
        return rename(state, RULES, "MMDetection")
    rest = rename({k: v for k, v in state.items() if not k.startswith("backbone.")}, RULES, "MMDetection")
    ours = (from_mmdet if any(name.startswith("stages.") for name in swin) else from_original)(swin)
    return {f"backbone.backbone.{name}": value for name, value in ours.items()} | rest
