"""Where the settings of two-stage models are that stood on one level in format 2: name -> ``part.name``.

``""`` stands for what nothing ever read.
"""

from __future__ import annotations

from collections.abc import Mapping

_RPN = {
    "anchor_sizes": "rpn.anchor_sizes",
    "anchor_ratios": "rpn.anchor_ratios",
    "rpn_depth": "rpn.depth",
    "rpn_high": "rpn.fg_iou",
    "rpn_low": "rpn.bg_iou",
    "rpn_inside": "rpn.inside_only",
    "rpn_batch": "rpn.batch_size",
    "rpn_nms": "rpn.nms_threshold",
    "rpn_candidates": "rpn.pre_nms_top_n",
    "proposals": "rpn.post_nms_top_n",
    "rpn_candidates_training": "rpn.pre_nms_top_n_training",
    "proposals_training": "rpn.post_nms_top_n_training",
}
_CONVENTIONS = {
    "exact_anchors": "conventions.exact_anchors",
    "rpn_rescue": "conventions.low_quality_iou",
    "rescue_moves": "conventions.low_quality_moves",
    "rpn_divisor": "conventions.rpn_divisor",
    "rpn_beta": "conventions.rpn_smooth_l1_beta",
    "smooth_l1_beta": "conventions.smooth_l1_beta",
    "sampling_ratio": "conventions.sampling_ratio",
    "roi_aligned": "conventions.roi_aligned",
    "symmetric_clip": "conventions.symmetric_clip",
    "min_side": "conventions.min_side",
}
_ROI = {
    "roi_levels": "roi.levels",
    "roi_pooling": "roi.pooling",
    "roi_iou": "roi.fg_iou",
    "roi_rescue": "roi.allow_low_quality_matches",
    "roi_batch": "roi.batch_size",
    "roi_positive": "roi.positive_fraction",
    "proposal_jitter": "roi.jitter",
}
_BOX_HEAD = {
    "roi_size": "box_head.roi_size",
    "box_convs": "box_head.convs",
    "box_layers": "box_head.layers",
    "box_width": "box_head.width",
    "box_weights": "box_head.weights",
    "box_agnostic": "box_head.class_agnostic",
}
_TWO_STAGE = _RPN | _CONVENTIONS | _ROI | _BOX_HEAD
_STAGES = {
    "stage_ious": "stages.ious",
    "stage_box_weights": "stages.box_weights",
    "stage_loss_weights": "stages.loss_weights",
    "stage_gradient": "stages.gradient",
    "resample": "stages.resample",
    "average": "stages.average",
}
_MASK_HEAD = {
    "mask_roi_size": "mask_head.roi_size",
    "mask_convs": "mask_head.convs",
    "mask_width": "mask_head.width",
    "mask_norm": "mask_head.norm",
    "mask_agnostic": "mask_head.class_agnostic",
    "mask_binary": "conventions.binary_masks",
}
_MASK_IOU_HEAD = {
    "iou_convs": "mask_iou_head.convs",
    "iou_width": "mask_iou_head.width",
    "iou_layers": "mask_iou_head.layers",
    "iou_layer_width": "mask_iou_head.layer_width",
    "iou_weight": "mask_iou_head.loss_weight",
    "iou_threshold": "mask_iou_head.threshold",
}
_KEYPOINT_HEAD = {
    "num_keypoints": "keypoint_head.num_keypoints",
    "keypoint_roi_size": "keypoint_head.roi_size",
    "keypoint_convs": "keypoint_head.convs",
    "keypoint_width": "keypoint_head.width",
}
_POINTS = {
    "region_size": "region_head.grid_size",
    "coarse_size": "region_head.mask_size",
    "coarse_layers": "region_head.layers",
    "coarse_width": "region_head.width",
    "point_layers": "point_head.layers",
    "point_width": "point_head.width",
    "train_points": "points.per_object",
    "oversample": "points.oversample",
    "importance": "points.importance",
    "mask_size": "points.mask_size",
    "subdivision_points": "points.per_subdivision",
}
_POLYGON_HEAD = {
    "first_points": "polygon_head.first_points",
    "num_points": "polygon_head.num_points",
    "attention_heads": "polygon_head.attention_heads",
    "samples": "polygon_head.samples",
    "feedforward": "polygon_head.feedforward",
    "polygon_levels": "polygon_head.levels",
    "raster_size": "polygon_head.raster_size",
    "smoothness": "polygon_head.smoothness",
}
_SCORE_MAPS = {
    "parts": "score_maps.parts",
    "cell": "score_maps.cell",
    "score_level": "score_maps.level",
    "score_width": "score_maps.width",
}
_GIVEN_PROPOSALS = {
    "strategies": "search.strategies",
    "search_side": "search.side",
    "proposals": "search.proposals",
    "pixel_mean": "search.mean",
    "pixel_std": "search.std",
    "roi_iou": "sampling.fg_iou",
    "roi_low": "sampling.bg_iou",
    "roi_batch": "sampling.batch_size",
    "roi_positive": "sampling.positive_fraction",
}
_HEAD = {
    "roi_size": "head.roi_size",
    "box_width": "head.width",
    "box_weights": "head.box_weights",
    "smooth_l1_beta": "head.smooth_l1_beta",
}
_CROPS = {
    "crop_side": "crop.side",
    "context": "crop.context",
    "svm_low": "svm.bg_iou",
    "svm_hard": "svm.hard",
    "svm_cost": "svm.cost",
    "slope": "svm.slope",
    "box_iou": "regressor.iou",
    "ridge": "regressor.ridge",
} | dict.fromkeys(_HEAD, "")

PLACES: Mapping[str, Mapping[str, str]] = {
    "detection.faster_rcnn": _TWO_STAGE,
    "detection.faster_rcnn_c4": _TWO_STAGE,
    "detection.cascade_rcnn": _TWO_STAGE | _STAGES,
    "instance.mask_rcnn": _TWO_STAGE | _MASK_HEAD,
    "instance.cascade_mask_rcnn": _TWO_STAGE | _STAGES | _MASK_HEAD,
    "instance.mask_scoring": _TWO_STAGE | _MASK_HEAD | _MASK_IOU_HEAD,
    "instance.keypoint_rcnn": _TWO_STAGE | _KEYPOINT_HEAD,
    "instance.panet": _TWO_STAGE | _MASK_HEAD,
    "instance.pointrend": _TWO_STAGE | _POINTS | {"position_channels": "", "parameter_decay": ""},
    "instance.implicit_pointrend": _TWO_STAGE | _POINTS | {"position_channels": "point_head.position_channels"},
    "instance.boundaryformer": _TWO_STAGE | _POLYGON_HEAD,
    "instance.mnc": _TWO_STAGE | {"mask_side": "mask_stage.side", "mask_width": "mask_stage.width"},
    "instance.fcis": _TWO_STAGE | _SCORE_MAPS,
    "detection.fast_rcnn": _GIVEN_PROPOSALS | _HEAD,
    "instance.hypercolumns": _GIVEN_PROPOSALS
    | _HEAD
    | {"classifiers": "columns.classifiers", "mask_side": "columns.mask_side", "column_levels": "columns.levels"},
    "instance.cfm": _GIVEN_PROPOSALS | _HEAD | {"mask_side": "head.mask_side", "box_weights": "", "smooth_l1_beta": ""},
    "detection.rcnn": _GIVEN_PROPOSALS | _CROPS,
    "instance.sds": _GIVEN_PROPOSALS | _CROPS | {"coarse": "refinement.coarse_side", "mask_side": "refinement.side"},
}
"""Module of the variant function -> its renamed settings; other models keep theirs on one level."""
