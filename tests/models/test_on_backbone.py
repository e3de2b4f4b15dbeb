"""Any backbone below any model that reads the maps of one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from eachmask import models
from eachmask.structures import Category, DecodeOptions, ImageBatch, UserError
from eachmask.training.optim import make_optimizer
from eachmask.training.pretrained import backbone_of
from eachmask.weights.file import build
from eachmask.weights.header import ModelInfo

SWIN = {"swin": {"width": 24, "depths": [1, 1, 1, 1]}}
FEW_QUERIES = {"queries": 5, "width": 64, "heads": 4, "decoder_layers": 1}
READERS = {
    "mask_rcnn_lite0_fpn": {},
    "mask_rcnn_lite0_pafpn": {},
    "cascade_mask_rcnn_lite0_p3": {},
    "retinanet_lite0_fpn": {},
    "condinst_lite0_fpn": {},
    "solov2_lite0": {},
    "semantic_fpn_lite0": {},
    "pointrend_semantic_lite0": {},
    "panoptic_fpn_lite0": {"stuff": [0]},
    "mask2former_lite0": FEW_QUERIES | {"encoder_layers": 1},
    "maskformer_semantic_lite0": FEW_QUERIES,
}


@pytest.mark.parametrize("body", ["swin_t", "swin_v2_t"])
@pytest.mark.parametrize("name", READERS)
@torch.inference_mode()
def test_a_swin_transformer_below_a_model_of_each_family(name, body):
    torch.manual_seed(0)
    model = models.variant(name)(num_classes=3, backbone=body, **READERS[name] | SWIN).eval()
    assert backbone_of(model).name == body and backbone_of(model).channels == (24, 48, 96, 192)
    images = ImageBatch(torch.randn(1, 3, 64, 64), ((64, 64),))
    (found,) = model.decode(model(images), DecodeOptions(score_threshold=0.5))
    assert found.image_size == (64, 64)


def test_networks_that_name_their_backbone_take_it_there():
    model = models.upernet_lite0(num_classes=3, backbone="swin_v2_t", width=32)
    assert model.config.backbone == backbone_of(model).name == "swin_v2_t"


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("rtmdet_ins_nano", "swin_t", "RTMDetIns is made for its own backbone"),
        ("mask_rcnn_lite0_fpn", "efficientnet_lite9", "efficientnet_lite9 is no backbone of timm's"),
        ("mask_rcnn_lite0_fpn", "mobilenet_v3_large", "mobilenet_v3_large has maps of strides 4, 8, 16, 32, 32, but"),
        ("mask_rcnn_lite0_fpn", "swin_xl", "there is no Swin transformer 'swin_xl'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(name, body, words):
    with pytest.raises(UserError, match=words):
        models.variant(name)(num_classes=2, backbone=body)


def test_a_model_file_names_its_backbone():
    info = ModelInfo("retinanet_lite0_fpn", {"backbone": "resnet18"}, categories=(Category(1, "cell"),))
    model = build(info, "cells.safetensors")
    assert backbone_of(model).name == "resnet18" and model.backbone.extra[0].weight.shape[1] == 512


def test_panoptic_fpn_learns_its_backbone_at_the_rate_of_backbones():
    model = models.panoptic_fpn_lite0(num_classes=3, stuff=[0])
    assert backbone_of(model) is model.detector.backbone.backbone
    recipe = SimpleNamespace(backbone_rate=0.3, weight_decay=0.05, learning_rate=1e-3)
    slow = {id(p) for g in make_optimizer(model, recipe).param_groups if g["rate"] == 0.3 for p in g["params"]}
    assert all((id(p) in slow) == name.startswith("detector.backbone.") for name, p in model.named_parameters())
