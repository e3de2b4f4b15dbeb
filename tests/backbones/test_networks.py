from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from eachmask.backbones.fpn import FPN, Pyramid
from eachmask.backbones.networks import ResNet, Timm, freeze, set_training_mode
from eachmask.backbones.swin import Swin, WindowAttention

BODIES = {
    "resnet18": lambda: ResNet("resnet18"),
    "lite0": lambda: Timm("tf_efficientnet_lite0"),
    "convnext": lambda: Timm("convnext_atto"),
    "swin": lambda: Swin("swin_t"),
}


@pytest.mark.parametrize("name", BODIES)
@torch.inference_mode()
def test_maps_are_as_wide_and_as_fine_as_announced(name):
    backbone = BODIES[name]().eval()
    features = backbone(torch.zeros(2, 3, 64, 96))
    assert features.strides == backbone.strides == (4, 8, 16, 32) and features.channels == backbone.channels
    for level, stride, channels in zip(features.maps, features.strides, features.channels, strict=True):
        assert level.shape == (2, channels, 64 // stride, 96 // stride)


@torch.inference_mode()
def test_resnet_is_torchvisions_with_the_epsilon_asked_for():
    torch.manual_seed(0)
    backbone = ResNet("resnet18", norm_eps=0.1).eval()
    reference = torchvision.models.resnet18(norm_layer=lambda n: nn.BatchNorm2d(n, eps=0.1)).eval()
    reference.load_state_dict(backbone.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 64)
    expected = reference.avgpool(backbone(image).maps[-1]).flatten(1)
    assert torch.allclose(reference.fc(expected), reference(image), atol=1e-5)


@torch.inference_mode()
def test_pyramid_equals_torchvisions():
    torch.manual_seed(0)
    ours = FPN(ResNet("resnet18"), Pyramid(channels=16)).eval()
    theirs = FeaturePyramidNetwork([64, 128, 256, 512], 16, LastLevelMaxPool())
    for mine, inner, layer in zip(range(4), theirs.inner_blocks, theirs.layer_blocks, strict=True):
        inner[0].load_state_dict(ours.lateral[mine].state_dict())
        layer[0].load_state_dict(ours.smooth[mine].state_dict())
    image = torch.rand(1, 3, 64, 96)
    expected = theirs(dict(zip("0123", ours.backbone(image).maps, strict=True)))
    features = ours(image)
    assert features.strides == (4, 8, 16, 32, 64) and features.channels == (16,) * 5
    for mine, level in zip(features.maps, expected.values(), strict=True):
        assert torch.allclose(mine, level, atol=1e-5)


def test_a_pyramid_with_strided_convolutions_on_top():
    features = FPN(ResNet("resnet18"), Pyramid(channels=16, extra="convs"))(torch.zeros(1, 3, 128, 128))
    assert [level.shape[-1] for level in features.maps] == [32, 16, 8, 4, 2, 1]
    assert features.strides == (4, 8, 16, 32, 64, 128)


def test_frozen_parts_and_their_statistics_stay_as_they_are_in_training():
    torch.manual_seed(0)
    backbone = ResNet("resnet18")
    nn.init.uniform_(backbone.bn1.running_mean, -0.5, 0.5)
    image = torch.rand(2, 3, 32, 32)
    before = backbone.eval()(image).maps[-1].detach()
    freeze(backbone, 2)
    set_training_mode(backbone)
    assert backbone.training and torch.equal(backbone(image).maps[-1], before), (
        "running statistics, although in training"
    )
    learnt = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learnt == {"layer2", "layer3", "layer4"}
    assert not any(p.requires_grad for name, p in backbone.named_parameters() if ".bn" in name)


def test_timms_stages_are_frozen_from_the_image_on():
    backbone = Timm("tf_efficientnet_lite0")
    freeze(backbone, 3)
    learnt = {name.split(".")[2] for name, p in backbone.named_parameters() if p.requires_grad and "blocks" in name}
    assert learnt == {"2", "3", "4", "5", "6"} and not backbone.net.conv_stem.weight.requires_grad


@torch.inference_mode()
def test_shifted_windows_are_traced_for_any_size():
    """Whether windows are shifted depends on how many there are, so that it belongs into the graph."""
    torch.manual_seed(0)
    attention = WindowAttention(16, [7, 7], [3, 3], 2).eval()
    traced = torch.jit.trace(attention, torch.randn(1, 24, 40, 16), check_trace=False)
    for size in ((1, 6, 10), (2, 33, 5), (1, 5, 33)):
        x = torch.randn(*size, 16)
        torch.testing.assert_close(traced(x), attention(x), atol=1e-6, rtol=0)
