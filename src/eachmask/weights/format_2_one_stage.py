"""Where the settings of one-stage models are that stood on one level in format 2: name -> ``part.name``."""

from __future__ import annotations

from collections.abc import Mapping


def _within(part: str, *same: str, **renamed: str) -> dict[str, str]:
    """Settings of one part: those with the same name as before, and before -> today's."""
    return {name: f"{part}.{name}" for name in same} | {old: f"{part}.{new}" for old, new in renamed.items()}


_FCOS = {
    **_within("head", "depth", "groups", "conv_bias", "scales", "distance", "centerness_on"),
    **_within("assign", "ranges", "radius", "box_loss"),
    **_within("select", "score", "threshold_on", "candidates", "best_by", "clip_first"),
}
_YOLACT = {
    **_within("anchors", "crowd_overlap", anchor_scales="scales", anchor_ratios="ratios", square_anchors="square"),
    **_within("anchors", match_high="fg_iou", match_low="bg_iou", own_anchors="one_each"),
    **_within("prototypes", num_prototypes="num", prototype_convs="convs", prototype_width="width"),
    **_within("loss", "learn_empty", "negatives", "box_weight", "mask_weight", "semantic_weight"),
    **_within("loss", "semantic_off_by_one", "masks_per_image"),
    **_within("select", "clip_first", "threshold_each"),
    **_within("select", candidates_per_level="per_level", candidates_per_class="per_class"),
}
PLACES: Mapping[str, Mapping[str, str]] = {
    "detection.fcos": _FCOS,
    "detection.retinanet": {
        **_within("anchors", "base_scale", "octave_scales", anchor_ratios="ratios", whole_anchors="rounded"),
        **_within("anchors", high="fg_iou", low="bg_iou"),
        **_within("loss", "alpha", "gamma", beta="smooth_l1_beta"),
    },
    "instance.condinst": _FCOS
    | {
        **_within("mask", "reach", mask_width="width", mask_convs="convs", mask_channels="channels"),
        **_within("mask", drawn="places_per_image", mask_weight="loss_weight"),
        **_within("ranking", "maskness_power", matrix_sigma="sigma", compared="candidates"),
    },
    "instance.blendmask": _FCOS
    | _within("blend", "bases", "attention_size", "base_size", "semantic_weight", base_width="width")
    | _within("blend", base_convs="convs"),
    "instance.polarmask": _FCOS | _within("rays", "bonus", num_rays="num", first_ray="first_length"),
    "instance.centermask": _FCOS
    | {
        **_within("roi", "proposals_training", roi_levels="levels", roi_iou="fg_iou", drawn="batch_size"),
        **_within("mask_head", mask_roi_size="roi_size", mask_convs="convs", mask_width="width"),
        **_within("mask_head", mask_norm="norm", mask_agnostic="class_agnostic"),
        **_within("mask_iou_head", iou_convs="convs", iou_width="width", iou_layers="layers"),
        **_within("mask_iou_head", iou_layer_width="layer_width", iou_weight="loss_weight"),
    },
    "instance.solo": _within("branches", "width", "category_convs", "mask_convs", "shared_convs"),
    "instance.solov2": _within("branches", "width", "convs", "mask_width", "kernel_size", "deformable"),
    "instance.yolact": _YOLACT,
    "instance.yolact_plus": _YOLACT
    | _within("rescore", rescore="used", iou_weight="loss_weight", iou_min_area="min_area"),
    "promptable.fastsam": _YOLACT,
    "instance.rtmdet_ins": {
        **_within("assign", "topk", "iou_weight", "center_radius"),
        **_within("loss", "box_weight", "mask_weight", drawn="places_per_image"),
    },
    "instance.tensormask": {
        **_within("windows", "scale", "radius", windows="sides"),
        **_within("loss", "alpha", "gamma", "mask_weight", "positive_weight"),
    },
}
"""Module below ``eachmask.models`` -> setting -> its place today; what is not named stayed where it was."""
