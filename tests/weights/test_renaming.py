"""Whatever a checkpoint wraps its weights in, the converters find them, and say by name what they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from eachmask.models.detection.fcos import fcos_lite0_fpn
from eachmask.structures import UserError
from eachmask.weights import from_torchvision, from_yolact
from eachmask.weights.from_detectron2 import boundaryformer, tensormask
from eachmask.weights.from_detectron2 import centermask as detectron2_centermask
from eachmask.weights.from_detectron2 import two_stage as detectron2
from eachmask.weights.from_mmdet import fcos, rtmdet
from eachmask.weights.renaming import fill, unwrapped

Convert = Callable[[Any], dict[str, Tensor]]


def numbered(*names: str) -> dict[str, Tensor]:
    return {name: torch.full((8, 1), float(i)) for i, name in enumerate(names)}


SMALL: list[tuple[Convert, dict[str, Tensor]]] = [
    (fcos.convert, numbered("bbox_head.conv_cls.bias", "backbone.conv1.weight")),
    (rtmdet.convert, numbered("bbox_head.rtm_cls.0.bias", "neck.out_convs.0.conv.weight")),
    (from_torchvision.convert, numbered("roi_heads.box_predictor.cls_score.bias", "rpn.head.bbox_pred.bias")),
    (
        from_torchvision.convert,
        numbered("backbone.fpn.inner_blocks.0.1.weight", "backbone.fpn.inner_blocks.0.0.weight"),
    ),
    (detectron2.convert, numbered("roi_heads.box_head.0.fc1.weight", "roi_heads.mask_head.deconv.weight")),
    (
        detectron2_centermask.convert,
        numbered("roi_heads.mask_head.mask_fcn1.bias", "roi_heads.mask_head.spatialAtt.conv.weight"),
    ),
]


@pytest.mark.parametrize(("convert", "state"), SMALL)
def test_wrapped_weights_are_the_same_weights(convert, state):
    plain = convert(state)
    beside = {"meta": {"epoch": 12}, "optimizer": {"state": {}}, "iteration": 3}
    parallel = {f"module.{name}": value for name, value in state.items()}
    wrapped = [{"state_dict": state}, {"model": state} | beside, {"model_state_dict": parallel}, parallel]
    wrapped += [{"ema_state_dict": parallel | {"steps": torch.tensor(7)}} | beside]
    for checkpoint in wrapped:
        found = convert(checkpoint)
        assert list(found) == list(plain) and all(torch.equal(found[name], plain[name]) for name in plain)


def test_the_trained_weights_come_before_averages():
    state, average = numbered("a"), {"module.a": torch.ones(1)}
    assert unwrapped({"ema_state_dict": average, "state_dict": state, "meta": {}}) == state


def test_what_holds_no_weights_is_told():
    with pytest.raises(UserError, match="epoch, optimizer.*no weights under state_dict"):
        fcos.convert({"epoch": 3, "optimizer": {}})


@pytest.mark.parametrize("convert", [detectron2.convert, tensormask.convert, boundaryformer.convert])
def test_colors_and_anchors_in_detectron2s_files_are_no_weights(convert):
    names = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors.0")
    assert convert(numbered(*names, "proposal_generator.anchor_generator.cell_anchors.3")) == {}


def test_weights_of_other_classes_are_told_by_name():
    state = fcos_lite0_fpn(num_classes=5).state_dict()
    with pytest.raises(UserError, match=r"2 of another shape \(head\.classes\.weight, head\.classes\.bias\)"):
        fill(fcos_lite0_fpn(num_classes=1), state)
    fill(fcos_lite0_fpn(num_classes=5), state)


@pytest.mark.parametrize("num_classes", [1, 2, 91])
def test_yolacts_background_is_moved_whatever_the_number_of_classes(num_classes):
    rows = torch.arange(3.0 * (num_classes + 1))
    state = {"semantic_seg_conv.bias": torch.zeros(num_classes)}
    state |= {f"prediction_layers.0.conf_layer.{kind}": rows for kind in ("weight", "bias")}
    found = from_yolact.convert(state)["head.classes.bias"].view(3, -1)
    assert found[0].tolist() == [*range(1, num_classes + 1), 0]


def test_yolacts_incomplete_weights_are_told_by_name():
    with pytest.raises(UserError, match=r"head\.classes\.bias, semantic\.bias"):
        from_yolact.convert(numbered("prediction_layers.0.conf_layer.weight"))


def test_what_early_versions_of_yolact_left_behind_is_dropped():
    complete = numbered("semantic_seg_conv.bias", *(f"prediction_layers.0.conf_layer.{k}" for k in ("weight", "bias")))
    complete = {name: value.repeat(3, 1)[: 8 if "semantic" in name else 18] for name, value in complete.items()}
    left = numbered("backbone.layer1.0.conv1.weight", "fpn.downsample_layers.2.weight", "fpn.downsample_layers.1.bias")
    added = set(from_yolact.convert(complete | left)) - set(from_yolact.convert(complete))
    assert added == {"backbone.extra.1.bias"}
