"""Settings of published models act: with another value and the same weights, what is learnt or found differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from models.test_contract import CASES, Case, scenes
from torch import Tensor, nn

from eachmask import models
from eachmask.models.config import merged
from eachmask.structures import DecodeOptions

SIZE = (66, 98)
BY_NAME = {case.variant: case for case in CASES}

LEARNING: dict[str, dict[str, Any]] = {
    "faster_rcnn_lite0_fpn": {
        "conventions.exact_anchors": True, "conventions.low_quality_iou": 0.9, "conventions.rpn_divisor": "batch",
        "conventions.rpn_smooth_l1_beta": 0.0, "conventions.smooth_l1_beta": 0.0, "conventions.sampling_ratio": 1,
        "conventions.roi_aligned": True, "rpn.fg_iou": 0.4, "rpn.bg_iou": 0.1, "rpn.inside_only": True,
        "rpn.batch_size": 20, "rpn.nms_threshold": 0.3, "rpn.pre_nms_top_n_training": 20,
        "rpn.post_nms_top_n_training": 10, "roi.fg_iou": 0.95,
        "roi.batch_size": 8, "roi.positive_fraction": 0.5, "roi.jitter": 0.2, "roi.pooling": "pool",
    },
    "mask_rcnn_lite0_fpn": {"conventions.binary_masks": True},
    "cascade_rcnn_lite0_fpn": {
        "stages.ious": (0.3, 0.6, 0.7), "stages.loss_weights": (1.0, 1.0, 1.0), "stages.resample": False,
        "conventions.smooth_l1_beta": 0.0,
        "stages.box_weights": ((10.0, 10.0, 5.0, 5.0), (10.0, 10.0, 5.0, 5.0), (10.0, 10.0, 5.0, 5.0)),
    },
    "retinanet_lite0_fpn": {
        "anchors.base_scale": 3.0, "anchors.rounded": True, "anchors.fg_iou": 0.7, "anchors.bg_iou": 0.2,
        "loss.alpha": 0.5, "loss.gamma": 1.0, "loss.smooth_l1_beta": 1 / 9,
    },
    "fcos_lite0_fpn": {
        "head.distance": "exp", "head.centerness_on": "class", "assign.ranges": (16, 24, 32, 64),
        "assign.radius": 0.3, "assign.box_loss": "smoothed",
    },
    "condinst_lite0_fpn": {"mask.reach": 4.0, "mask.places_per_image": 2, "mask.loss_weight": 2.0},
    "centermask_lite0_fpn": {
        "roi.proposals_training": 3, "roi.fg_iou": 0.01, "roi.batch_size": 2,
        "mask_iou_head.loss_weight": 0.5, "mask_iou_head.threshold": 0.5,
    },
    "blendmask_lite0_fpn": {"blend.semantic_weight": 1.0},
    "solo_lite0": {
        "center_share": 0.6, "mask_weight": 1.0,
        "scale_ranges": ((1, 16), (8, 32), (16, 48), (32, 96), (64, 2048)),
    },
    "rtmdet_ins_nano": {
        "assign.topk": 1, "assign.iou_weight": 0.0, "assign.center_radius": 0.5, "loss.box_weight": 1.0,
        "loss.mask_weight": 1.0, "loss.places_per_image": 2,
    },
    "mask_scoring_rcnn_lite0_fpn": {"mask_iou_head.loss_weight": 1.0, "mask_iou_head.threshold": 0.45},
    "yolact_lite0": {
        "anchors.fg_iou": 0.7, "anchors.bg_iou": 0.2, "loss.negatives": 1,
        "loss.box_weight": 1.0, "loss.mask_weight": 1.0, "loss.semantic_weight": 2.0,
        "loss.semantic_off_by_one": True, "loss.masks_per_image": 1,
    },
    "tensormask_lite0_fpn": {
        "loss.alpha": 0.5, "loss.gamma": 1.0, "loss.mask_weight": 1.0, "loss.positive_weight": 1.0,
        "box_weights": (1.0, 1.0, 1.0, 1.0),
    },
    "pointrend_lite0_fpn": {
        "points.per_object": 20, "points.oversample": 5.0, "points.importance": 0.1, "train_on_predicted": True,
    },
    "boundaryformer_lite0_fpn": {"polygon_head.smoothness": 1.0, "polygon_head.raster_size": 16},
}  # fmt: skip
"""Variant -> settings that change what is learnt, each with another value."""
FINDING: dict[str, dict[str, Any]] = {
    "faster_rcnn_lite0_fpn": {
        "class_agnostic_nms": True, "score_threshold": 0.3, "nms_threshold": 0.1, "max_detections": 3,
        "rpn.pre_nms_top_n": 10, "rpn.post_nms_top_n": 5, "conventions.min_side": 30.0,
    },
    "cascade_rcnn_lite0_fpn": {"stages.average": "logits"},
    "retinanet_lite0_fpn": {
        "candidates": 5, "score_threshold": 0.4, "nms_threshold": 0.1, "max_detections": 3,
    },
    "fcos_lite0_fpn": {
        "select.score": "root", "select.threshold_on": "product", "select.candidates": 5, "select.best_by": "product",
        "select.clip_first": False, "score_threshold": 0.0, "nms_threshold": 0.1, "max_detections": 3,
    },
    "condinst_lite0_fpn": {"ranking": {"sigma": 2.0}},
    "polarmask_lite0_fpn": {"rays.bonus": 0.0, "select.candidates": 5},
    "solo_lite0": {
        "candidate_threshold": 0.0, "candidates": 5, "sigma": 0.5, "max_detections": 3,
    },
    "rtmdet_ins_nano": {"candidates": 5, "score_threshold": 0.0, "nms_threshold": 0.1, "max_detections": 3},
    "mask_scoring_rcnn_lite0_fpn": {"free_scores": True},
    "yolact_lite0": {
        "select.per_class": 2, "select.per_level": 5, "select.clip_first": True, "head_relu": False,
    },
    "tensormask_lite0_fpn": {"candidates": 5, "nms_threshold": 0.1},
}  # fmt: skip
"""The same of what is found."""
OPPOSED: dict[str, dict[str, Any]] = {
    "select.best_by": {"select": {"candidates": 5}},
    "select.threshold_on": {"score_threshold": 0.01},
    "conventions.rpn_divisor": {"rpn": {"batch_size": 4096}},
    "roi.positive_fraction": {"roi": {"batch_size": 4}},
    "roi.proposals_training": {"score_threshold": 0.0, "roi": {"fg_iou": 0.01}},
    "roi.fg_iou": {"score_threshold": 0.0},
    "candidate_threshold": {"score_threshold": 0.0},
}
"""What else must be set for a setting to matter."""


def nested(path: str, value: Any) -> dict[str, Any]:
    """``a.b`` and a value -> the setting as a model takes it."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def build(case: Case, config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = models.variant(case.variant)(num_classes=case.num_classes, **merged(case.config, config))
    return made.eval()


@cache
def weights(variant: str) -> dict[str, Tensor]:
    """Of a model that says much, and surely, though it has learnt nothing."""
    state = build(BY_NAME[variant], {}).state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():
        if name.endswith("weight") and value.ndim > 1 and not name.startswith("backbone."):
            state[name] = value + 2 * value.std().nan_to_num(0.01) * torch.randn(value.shape, generator=generator)
    return state


def learnt(variant: str, config: dict[str, Any]) -> list[Tensor]:
    model = loaded(variant, config)
    batch, targets = scenes(BY_NAME[variant], SIZE)
    torch.manual_seed(2)
    return list(model.losses(model(batch), targets).values())


@torch.no_grad()
def found(variant: str, config: dict[str, Any]) -> list[Tensor]:
    model = loaded(variant, config)
    raw = model(scenes(BY_NAME[variant], SIZE)[0])
    return [
        tensor
        for options in (DecodeOptions(), DecodeOptions(score_threshold=BY_NAME[variant].score))
        for one in model.decode(raw, options)
        for tensor in (one.boxes, one.scores, one.labels)
    ]


def loaded(variant: str, config: dict[str, Any]) -> Any:
    with no_draws():
        model = build(BY_NAME[variant], config)
    model.load_state_dict(weights(variant))
    return model


@contextmanager
def no_draws() -> Iterator[None]:
    """Weights that are about to be replaced are not drawn, which would take longer than all else."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    with pytest.MonkeyPatch.context() as patched:
        for name in names:
            patched.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield


def rows(table: dict[str, dict[str, Any]]) -> Iterator[Any]:
    for variant, settings in table.items():
        for path, value in settings.items():
            yield pytest.param(variant, path, value, id=f"{variant}-{path}")


def act(said: Callable[[str, dict[str, Any]], list[Tensor]], variant: str, path: str, value: Any) -> bool:
    """Whether the value of a setting changes what is said."""
    beside = OPPOSED.get(path, {})
    before = said(variant, beside) if beside else usual(said, variant)
    after = said(variant, merged(beside, nested(path, value)))
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@cache
def usual(said: Callable[[str, dict[str, Any]], list[Tensor]], variant: str) -> list[Tensor]:
    return said(variant, {})


@pytest.mark.parametrize(("variant", "path", "value"), rows(LEARNING))
def test_what_is_learnt_depends_on_it(variant: str, path: str, value: Any) -> None:
    assert act(learnt, variant, path, value)


@pytest.mark.parametrize(("variant", "path", "value"), rows(FINDING))
def test_what_is_found_depends_on_it(variant: str, path: str, value: Any) -> None:
    assert act(found, variant, path, value)
