"""RITM's checkpoints (SamsungLabs/ritm_interactive_segmentation): HRNet with object-contextual representations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights.renaming import Rule, rename

_NET, _OCR = r"^feature_extractor\.", r"^feature_extractor\.ocr_distri_head\.object_context_block\."


def _two_convs(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        (rf"{_OCR}{theirs}\.0\.", f"head.{ours}.0."),
        (rf"{_OCR}{theirs}\.1\.0\.", f"head.{ours}.1."),
        (rf"{_OCR}{theirs}\.2\.", f"head.{ours}.3."),
        (rf"{_OCR}{theirs}\.3\.0\.", f"head.{ours}.4."),
    )


RULES: tuple[Rule, ...] = (
    (r"^maps_transform\.", "click_features."),
    (rf"{_NET}transition1\.0\.", "backbone.first."),
    (rf"{_NET}transition1\.1\.0\.", "backbone.transitions.0."),
    (rf"{_NET}transition2\.2\.0\.", "backbone.transitions.1."),
    (rf"{_NET}transition3\.3\.0\.", "backbone.transitions.2."),
    (rf"{_NET}stage2\.", "backbone.stages.0."),
    (rf"{_NET}stage3\.", "backbone.stages.1."),
    (rf"{_NET}stage4\.", "backbone.stages.2."),
    (rf"{_NET}conv3x3_ocr\.", "head.features."),
    (rf"{_NET}aux_head\.", "head.rough."),
    (rf"{_NET}cls_head\.", "head.mask."),
    (rf"{_NET}ocr_distri_head\.conv_bn_dropout\.0\.", "head.mix.0."),
    (rf"{_NET}ocr_distri_head\.conv_bn_dropout\.1\.0\.", "head.mix.1."),
    *_two_convs("f_pixel", "query"),
    *_two_convs("f_object", "key"),
    *_two_convs("f_down", "value"),
    *_two_convs("f_up", "up"),
    (_NET, "backbone."),
)

LICENSE = "MIT (code and weights of the checkpoint's makers)"


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RITM's state dict -> ours (``ritm_hrnet18`` and its kin)."""
    return rename(state, RULES, "RITM")
