"""Backbones by name: what they promise of their maps, and torchvision's classifiers as their start."""

from __future__ import annotations

import pytest
import torch

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.backbones.by_name import backbone_named
from eachmask.structures import UserError
from eachmask.weights.renaming import fill


@pytest.mark.parametrize(
    ("name", "coarsest"),
    [
        ("resnet50", 16),
        ("mobilenet_v3_small", 16),
        ("mobilenet_v3_large", 32),
        ("vgg11", 32),
        ("tf_efficientnet_lite0", 8),
    ],
)
def test_maps_have_the_strides_and_channels_they_say(name, coarsest):
    network = backbone_named(name, coarsest).eval()
    with torch.no_grad():
        found = network(torch.zeros(1, 3, 64, 64))
    assert [64 // m.shape[-1] for m in found.maps] == list(network.strides) == list(found.strides)
    assert [m.shape[1] for m in found.maps] == list(network.channels)
    assert max(network.strides) == coarsest


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11"])
def test_a_classifier_of_torchvision_fills_it(name):
    torch.manual_seed(0)
    classifier = getattr(torchvision().models, name)(weights=None).eval()
    network = backbone_named(name).eval()
    fill(network, network.from_classifier(classifier.state_dict()))
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        assert torch.equal(network(image).maps[-1], classifier.features(image))


@pytest.mark.parametrize(("name", "coarsest"), [("resnet18", 16), ("mobilenet_v3_large", 8), ("vgg11", 8)])
def test_what_cannot_be_dilated_is_said(name, coarsest):
    with pytest.raises(UserError, match="stride of 32|its stride is"):
        backbone_named(name, coarsest)
