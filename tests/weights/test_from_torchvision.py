from __future__ import annotations

import re

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import detection as theirs
from torchvision.ops import FrozenBatchNorm2d

from eachmask import models
from eachmask.backbones.networks import ResNet
from eachmask.structures import UserError
from eachmask.weights.from_torchvision import convert, load_imagenet_resnet
from eachmask.weights.renaming import fill


def reference(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """torchvision's Mask R-CNN on a small backbone, so that tests stay quick; 3 classes and background."""
    backbone = theirs.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm)
    return theirs.MaskRCNN(backbone, num_classes=4, min_size=64, max_size=96).eval()


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the published files of the first generation have them (torchvision 0.3)."""
    renames = (
        (r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        (r"mask_head\.0\.0\.", "mask_head.mask_fcn1."),
        (r"mask_head\.1\.0\.", "mask_head.mask_fcn2."),
        (r"mask_head\.2\.0\.", "mask_head.mask_fcn3."),
        (r"mask_head\.3\.0\.", "mask_head.mask_fcn4."),
    )
    result = {}
    for name, value in state.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return reference().state_dict()


def test_names_of_old_and_new_releases_are_the_same_weights(state):
    new, old = convert(state), convert(old_names(state))
    assert "roi_heads.mask_head.mask_fcn1.weight" in old_names(state)
    assert list(new) == list(old) and all(torch.equal(new[k], old[k]) for k in new)


def test_background_becomes_the_last_class_and_loses_its_box_and_mask(state):
    found = convert(state)
    scores, deltas = "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(found["box_predictor.classes.weight"][-1], state[scores][0])
    assert torch.equal(found["box_predictor.classes.weight"][0], state[scores][1])
    assert torch.equal(found["box_predictor.deltas.weight"], state[deltas][4:])
    masks = state["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    assert torch.equal(found["mask_head.masks.weight"], masks[1:])


@torch.inference_mode()
def test_frozen_normalization_without_epsilon_as_published():
    """The first generation's files: no batch counters, variances that were divided by without an epsilon."""
    torch.manual_seed(0)
    frozen = reference(FrozenBatchNorm2d)
    for module in frozen.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
            nn.init.uniform_(module.running_var, 1e-5, 1e-4)  # so small that an epsilon of 1e-5 would tell
            nn.init.uniform_(module.weight, 2e-3, 5e-3)
    published = old_names(frozen.state_dict())
    assert not any("num_batches_tracked" in name for name in published)
    image = torch.rand(1, 3, 64, 96)
    expected = list(frozen.backbone(image).values())
    found = {}
    for eps in (0.0, 1e-5):
        ours = models.mask_rcnn_r18_fpn(num_classes=3, norm_eps=eps).eval()
        fill(ours, convert(published))
        found[eps] = ours.backbone(image).maps
    for i, level in enumerate(expected):
        assert torch.allclose(found[0.0][i], level, rtol=1e-4, atol=1e-5 * float(level.abs().max()))
    assert not torch.allclose(found[1e-5][0], expected[0], rtol=1e-2)


def test_weights_that_do_not_fit_are_named(state):
    ours = models.mask_rcnn_r18_fpn(num_classes=3)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(UserError, match=r"1 missing \(rpn.objectness.bias\)"):
        fill(ours, convert({k: v for k, v in state.items() if k != "rpn.head.cls_logits.bias"}))
    with pytest.raises(UserError, match="of another shape"):
        fill(models.mask_rcnn_r18_fpn(num_classes=7), convert(state))
    with pytest.raises(UserError, match="unexpected"):
        fill(models.faster_rcnn_lite0_fpn(num_classes=3), convert(state))
    with pytest.raises(UserError, match=r"features\.0\.weight has no counterpart"):
        fill(ours, convert(state | {"features.0.weight": torch.zeros(1)}))
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items()), "all or nothing"


def test_an_imagenet_classifier_fills_a_body():
    torch.manual_seed(0)
    classifier, backbone = torchvision.models.resnet18(weights=None).eval(), ResNet("resnet18").eval()
    published = {k: v for k, v in classifier.state_dict().items() if "num_batches" not in k}  # as the files are
    load_imagenet_resnet(backbone, published)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        pooled = backbone(image).maps[-1].mean((2, 3))
        assert torch.allclose(classifier.fc(pooled), classifier(image), atol=1e-4)
    with pytest.raises(UserError, match="do not fit ResNet"):
        load_imagenet_resnet(ResNet("resnet34"), published)
