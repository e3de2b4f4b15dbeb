"""Settings as papers and reference implementations publish them.

Recorded losses and detections are often too coarse to tell a changed setting; weights of others want exactly these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from eachmask.models.detection import cascade_rcnn, conventions, faster_rcnn, fcos, retinanet, rpn
from eachmask.models.instance import (
    blendmask,
    boundaryformer,
    centermask,
    condinst,
    grid_heads,
    mask_rcnn,
    mask_scoring,
    pointrend,
    polarmask,
    rtmdet_ins,
    solo,
    solov2,
    tensormask,
    yolact,
    yolact_plus,
)


def values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= values(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
    return found


def own(config: Any) -> dict[str, Any]:
    """Its values that are in no part."""
    return {name: value for name, value in values(config).items() if "." not in name}


def without(changes: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name not in names}


BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
DETECTIONS = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}
PUBLISHED: list[tuple[Any, dict[str, Any]]] = [
    # torchvision.models.detection
    (conventions.TORCHVISION, {
        "exact_anchors": False, "low_quality_iou": 0.0, "low_quality_moves": False, "rpn_divisor": "sampled",
        "rpn_smooth_l1_beta": 1 / 9, "smooth_l1_beta": 1 / 9, "sampling_ratio": 2, "roi_aligned": False,
        "symmetric_clip": False, "binary_masks": False, "min_side": 1e-2,
    }),
    (rpn.RPNConfig(), {
        "anchor_sizes": (32, 64, 128, 256, 512), "anchor_ratios": (0.5, 1.0, 2.0), "depth": 1, "fg_iou": 0.7,
        "bg_iou": 0.3, "inside_only": False, "batch_size": 256, "nms_threshold": 0.7, "pre_nms_top_n": 1000,
        "post_nms_top_n": 1000, "pre_nms_top_n_training": 2000, "post_nms_top_n_training": 2000,
    }),
    (faster_rcnn.RoIConfig(), {
        "levels": 4, "pooling": "align", "fg_iou": 0.5, "allow_low_quality_matches": False, "batch_size": 512,
        "positive_fraction": 0.25, "jitter": 0.0,
    }),
    (faster_rcnn.BoxHeadConfig(), {
        "roi_size": 7, "convs": 0, "layers": 2, "width": 1024, "weights": BOX_WEIGHTS, "class_agnostic": False,
    }),
    (faster_rcnn.Config(), {"class_agnostic_nms": False, **DETECTIONS, "norm_eps": 1e-5}),
    (mask_rcnn.MaskHeadConfig(), {"roi_size": 14, "convs": 4, "width": 256, "norm": False, "class_agnostic": False}),
    # Cai and Vasconcelos, Cascade R-CNN
    (cascade_rcnn.StagesConfig(), {
        "ious": (0.5, 0.6, 0.7), "box_weights": (BOX_WEIGHTS, (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        "loss_weights": (1.0, 0.5, 0.25), "gradient": 1.0, "resample": True, "average": "scores",
        "giou": None,
    }),
    # MMDetection's ms_rcnn_r50_fpn
    (mask_scoring.MaskIoUHeadConfig(), {
        "convs": 4, "width": 256, "layers": 2, "layer_width": 1024, "loss_weight": 0.5, "threshold": 0.5,
    }),
    # Kirillov et al., PointRend, sections 4.1 and 4.2
    (pointrend.RegionHeadConfig(), {"grid_size": 14, "mask_size": 7, "layers": 2, "width": 1024}),
    (pointrend.PointHeadConfig(), {"layers": 3, "width": 256, "coarse_in_each": True}),
    (pointrend.PointsConfig(), {
        "per_object": 14 * 14, "oversample": 3.0, "importance": 0.75, "mask_size": 224, "per_subdivision": 28 * 28,
    }),
    # Lazarow et al., BoundaryFormer
    (boundaryformer.PolygonHeadConfig(), {
        "first_points": 8, "num_points": 64, "attention_heads": 8, "samples": 4, "feedforward": 1024, "levels": 4,
        "raster_size": 64, "smoothness": 0.1,
    }),
    # Lin et al., Focal loss, section 5.1; MMDetection's retinanet_r50_fpn
    (retinanet.AnchorConfig(), {
        "base_scale": 4.0, "octave_scales": 3, "ratios": (0.5, 1.0, 2.0), "rounded": False, "fg_iou": 0.5,
        "bg_iou": 0.4,
    }),
    (retinanet.LossConfig(), {"alpha": 0.25, "gamma": 2.0, "smooth_l1_beta": 0.0}),
    (retinanet.Config(), {"depth": 4, "symmetric_clip": True, "norm_eps": 1e-5, "candidates": 1000, **DETECTIONS}),
    # Tian et al., FCOS, the improved form
    (fcos.HeadConfig(), {
        "depth": 4, "groups": 32, "conv_bias": True, "scales": True, "distance": "relu", "centerness_on": "box",
    }),
    (fcos.AssignConfig(), {"ranges": (64, 128, 256, 512), "radius": 1.5, "box_loss": "giou"}),
    (fcos.SelectConfig(), {
        "score": "product", "threshold_on": "class", "candidates": 1000, "best_by": "class", "clip_first": True,
    }),
    (fcos.Config(), {"agnostic": False, **DETECTIONS, "nms_threshold": 0.6}),
    # Tian et al., CondInst, and without what we add
    (condinst.MaskConfig(), {
        "width": 128, "convs": 4, "channels": 8, "reach": 8.0, "places_per_image": 300, "loss_weight": 1.0,
        "least_region": 0.0,
    }),
    (condinst.RankingConfig(), {
        "sigma": None, "maskness_power": 1.0, "candidates": 300, "repeat_factor": 1.0, "part_factor": 1.0,
    }),
    # Lee and Park, CenterMask2
    (centermask.RoIConfig(), {"levels": 3, "proposals_training": 100, "fg_iou": 0.5, "batch_size": 128}),
    # Chen et al., BlendMask
    (blendmask.BlendConfig(), {
        "bases": 4, "width": 128, "convs": 3, "attention_size": 14, "base_size": 56, "semantic_weight": 0.3,
    }),
    # Xie et al., PolarMask
    (polarmask.RayConfig(), {"num": 36, "bonus": 0.5, "first_length": 1.0}),
    # Wang et al., SOLO and SOLOv2
    (grid_heads.GridConfig(), {
        "grids": (40, 36, 24, 16, 12), "scale_ranges": RANGES, "center_share": 0.2, "mask_weight": 3.0,
        "mask_mean": "cells", "candidate_threshold": 0.1, "score_threshold": 0.05, "candidates": 500, "sigma": 2.0,
        "max_detections": 100,
    }),
    (solo.BranchConfig(), {"width": 256, "category_convs": 7, "mask_convs": 7, "shared_convs": False}),
    (solov2.BranchConfig(), {
        "width": 512, "convs": 4, "mask_width": 128, "kernel_size": 256, "deformable": False,
    }),
    # Lyu et al., RTMDet-Ins
    (rtmdet_ins.AssignConfig(), {"topk": 13, "iou_weight": 3.0, "center_radius": 3.0}),
    (rtmdet_ins.LossConfig(), {"box_weight": 2.0, "mask_weight": 2.0, "places_per_image": 300}),
    (rtmdet_ins.Config(), {
        "convs": 2, "mask_convs": 4, "prototypes": 8, "candidates": 1000, **DETECTIONS, "nms_threshold": 0.6,
    }),
    # Bolya et al., YOLACT and YOLACT++
    (yolact.AnchorConfig(), {
        "scales": ((24,), (48,), (96,), (192,), (384,)), "ratios": (1.0, 2.0, 0.5), "square": True, "fg_iou": 0.5,
        "bg_iou": 0.4, "one_each": True, "crowd_overlap": 0.7,
    }),
    (yolact.PrototypeConfig(), {"num": 32, "convs": 3, "width": 256}),
    (yolact.LossConfig(), {
        "learn_empty": False, "negatives": 3, "box_weight": 1.5, "mask_weight": 6.125, "semantic_weight": 1.0,
        "semantic_off_by_one": False, "masks_per_image": 100,
    }),
    (yolact.SelectConfig(), {"per_level": None, "per_class": 200, "clip_first": False, "threshold_each": True}),
    (yolact.Config(), {"head_relu": True, "coarse_from_backbone": False, **DETECTIONS}),
    (yolact_plus.RescoreConfig(), {"used": True, "loss_weight": 25.0, "min_area": 5 * 5}),
    # Chen et al., TensorMask
    (tensormask.WindowConfig(), {"sides": (11, 15), "scale": 2.0, "radius": 1.0}),
    (tensormask.LossConfig(), {"alpha": 0.3, "gamma": 3.0, "mask_weight": 2.0, "positive_weight": 1.5}),
    (tensormask.Config(), {
        "depth": 4, "width": 128, "box_weights": (1.5, 1.5, 0.75, 0.75), "candidates": 6000, **DETECTIONS,
    }),
]  # fmt: skip

TRAINED_SHORT = {"rpn.post_nms_top_n_training": 1000}
DETECTRON2 = {
    "exact_anchors": True, "rpn_divisor": "batch", "rpn_smooth_l1_beta": 0.0, "smooth_l1_beta": 0.0,
    "sampling_ratio": 0, "roi_aligned": True, "binary_masks": True, "min_side": 1e-6,
}  # fmt: skip
MMDET = DETECTRON2 | {
    "low_quality_iou": 0.3, "low_quality_moves": True, "rpn_divisor": "counted", "symmetric_clip": True,
    "min_side": 0.0,
}  # fmt: skip
IN_DETECTRON2, IN_MMDET = (
    TRAINED_SHORT | {f"conventions.{name}": value for name, value in changes.items()} for changes in (DETECTRON2, MMDET)
)
LATE = IN_MMDET | {"roi.allow_low_quality_matches": True}
ROOT = {"select.score": "root", "select.best_by": "product", "select.clip_first": False}
SMOOTHED = {"assign.box_loss": "smoothed"}
DIFFERENT: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("detectron2", conventions.DETECTRON2, conventions.TORCHVISION, DETECTRON2),
    ("mmdet", conventions.MMDET, conventions.TORCHVISION, MMDET),
    ("v2 box head", faster_rcnn.V2_BOX_HEAD, faster_rcnn.BoxHeadConfig(), {"convs": 4, "layers": 1}),
    ("v2 rpn", faster_rcnn.V2_RPN, rpn.RPNConfig(), {"depth": 2}),
    ("mask_rcnn v2", mask_rcnn.V2, mask_rcnn.Config(), {
        "rpn.depth": 2, "box_head.convs": 4, "box_head.layers": 1, "mask_head.norm": True,
    }),
    ("mask_rcnn detectron2", mask_rcnn.DETECTRON2, mask_rcnn.Config(), IN_DETECTRON2),
    ("mask_rcnn mmdet", mask_rcnn.MMDET, mask_rcnn.Config(), LATE),
    ("mask_scoring mmdet", mask_scoring.MMDET, mask_scoring.Config(), LATE),
    ("pointrend detectron2", pointrend.DETECTRON2, pointrend.Config(), IN_DETECTRON2 | {"train_on_predicted": True}),
    ("pointrend mmdet", pointrend.MMDET, pointrend.Config(), LATE),
    ("boundaryformer", boundaryformer.DETECTRON2, boundaryformer.Config(), IN_DETECTRON2),
    ("cascade", cascade_rcnn.Config(), faster_rcnn.Config(), {"box_head.class_agnostic": True}),
    ("cascade mmdet", cascade_rcnn.MMDET, cascade_rcnn.Config(), {
        **without(IN_MMDET, *TRAINED_SHORT, "conventions.rpn_smooth_l1_beta"),
        "rpn.inside_only": True, "conventions.smooth_l1_beta": 1.0, "stages.average": "logits",
        "stages.box_weights": (BOX_WEIGHTS, (20.0, 20.0, 10.0, 10.0), (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)),
    }),
    ("cascade detectron2", cascade_rcnn.DETECTRON2, cascade_rcnn.Config(), {
        **without(IN_DETECTRON2, *TRAINED_SHORT),
        "stages.loss_weights": (1.0, 1.0, 1.0), "stages.gradient": 1 / 3, "stages.resample": False,
    }),
    ("condinst adelaidet", condinst.ADELAIDET, condinst.Config(), ROOT | SMOOTHED | {"select.threshold_on": "product"}),
    ("centermask", centermask.Config(), fcos.Config(), ROOT | SMOOTHED | {"max_detections": 50}),
    ("centermask iou head", centermask.Config().mask_iou_head, mask_scoring.MaskIoUHeadConfig(), {
        "loss_weight": 1.0, "threshold": 0.0,
    }),
    ("centermask lite", centermask.LITE, centermask.Config(), {
        "head.depth": 2, "mask_head.convs": 2, "mask_head.width": 128, "mask_iou_head.convs": 2,
        "mask_iou_head.width": 128,
    }),
    ("blendmask", blendmask.Config(), fcos.Config(), ROOT | SMOOTHED | {
        "select.threshold_on": "product", "head.scales": False,
    }),
    ("polarmask", polarmask.Config(), fcos.Config(), {
        "head.conv_bias": False, "head.distance": "exp", "head.centerness_on": "class", "assign.box_loss": "iou",
        "nms_threshold": 0.5,
    }),
    ("solov2", solov2.Config(), grid_heads.GridConfig(), {}),
    ("solo", solo.Config(), grid_heads.GridConfig(), {}),
    ("mask_rcnn", mask_rcnn.Config(), faster_rcnn.Config(), {}),
    ("yolact++", yolact_plus.Config(), yolact.Config(), {
        "anchors.square": False,
        "anchors.scales": tuple(tuple(side * 2 ** (i / 3) for i in range(3)) for side in (24, 48, 96, 192, 384)),
    }),
]  # fmt: skip


@pytest.mark.parametrize(("config", "published"), PUBLISHED, ids=lambda one: type(one).__qualname__)
def test_the_defaults_are_the_published_ones(config: Any, published: Mapping[str, Any]) -> None:
    assert own(config) == published


@pytest.mark.parametrize(
    ("config", "base", "changes"), [row[1:] for row in DIFFERENT], ids=[row[0] for row in DIFFERENT]
)
def test_presets_differ_in_what_their_makers_chose(config: Any, base: Any, changes: Mapping[str, Any]) -> None:
    before, now = values(base), values(config)
    assert {name: now[name] for name, value in before.items() if now[name] != value} == changes


def test_presets_that_are_written_as_changes() -> None:
    assert fcos.FIRST == {
        "head": {"conv_bias": False, "distance": "exp", "centerness_on": "class"},
        "assign": {"radius": None, "box_loss": "iou"},
        "nms_threshold": 0.5,
    }
    assert yolact.RELEASE == {"select": {"threshold_each": False}}
    assert yolact.MMDETECTION == {
        "head_relu": False,
        "coarse_from_backbone": True,
        "anchors": {
            "scales": ((24.0,), (48.0,), (96.0,), (192.0,), (384.0,)), "ratios": (0.5, 1.0, 2.0), "square": False,
            "one_each": False,
        },
        "loss": {"learn_empty": True, "semantic_off_by_one": True},
        "select": {"per_level": 1000, "clip_first": True},
    }  # fmt: skip
