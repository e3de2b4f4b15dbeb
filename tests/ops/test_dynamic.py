"""Masks of predicted networks, against plain convolutions and plain slicing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from eachmask.ops.dynamic import Kernels, Places, apply_in_groups, apply_networks, every_fourth, num_kernel_weights
from eachmask.structures import RLE


def test_a_network_is_three_convolutions_over_relative_coordinates():
    torch.manual_seed(0)
    features, kernels = torch.randn(8, 5, 7), torch.randn(3, 169) / 3
    places = Places(torch.tensor([[3.0, 9.0], [40.0, 0.0], [20.0, 20.0]]), torch.tensor([64.0, 128.0, 64.0]), 8, 4.0)
    found = apply_networks(features, kernels, places)
    assert num_kernel_weights(8) == 169
    for i in range(3):
        ys, xs = torch.meshgrid(torch.arange(5) * 8 + 4.0, torch.arange(7) * 8 + 4.0, indexing="ij")
        relative = (places.points[i][:, None, None] - torch.stack([xs, ys])) / places.reach[i]
        x = torch.cat([relative, features])[None]
        w1, w2, w3, b1, b2, b3 = kernels[i].split([80, 64, 8, 8, 8, 1])
        x = F.conv2d(x, w1.view(8, 10, 1, 1), b1).relu()
        x = F.conv2d(x, w2.view(8, 8, 1, 1), b2).relu()
        x = F.conv2d(x, w3.view(1, 8, 1, 1), b3)
        assert torch.allclose(found[i], x[0, 0], atol=1e-4)


def test_every_fourth_pixel_of_true_masks():
    rng = torch.Generator().manual_seed(0)
    bitmaps = torch.rand(6, 29, 38, generator=rng) < 0.5
    bitmaps[0, :7], bitmaps[1, :, :9], bitmaps[2] = False, False, False
    found = every_fourth(RLE.from_bitmaps(bitmaps.numpy()), (8, 10))
    expected = torch.zeros(6, 32, 40)
    expected[:, :29, :38] = bitmaps.float()
    assert torch.equal(found, expected[:, 2::4, 2::4])
    assert torch.equal(every_fourth(RLE.from_bitmaps(bitmaps.numpy()), (7, 9)), expected[:, 2:28:4, 2:36:4])


def test_groups_are_computed_alike(monkeypatch):
    torch.manual_seed(0)
    features, kernels = torch.randn(8, 5, 7), torch.randn(9, 169)
    places = Places(torch.rand(9, 2) * 40, torch.full((9,), 64.0), 8, 4.0)
    monkeypatch.setattr("eachmask.ops.dynamic.PIXEL_CHUNK_SIZE", 4 * 35)
    groups = list(apply_in_groups(features, kernels, places))
    assert [len(group) for group in groups] == [4, 4, 1]
    assert torch.allclose(torch.cat(groups), apply_networks(features, kernels, places), atol=1e-5)
    nothing = places._replace(points=places.points[:0], reach=places.reach[:0])
    assert [group.shape for group in apply_in_groups(features, kernels[:0], nothing)] == [(0, 5, 7)]


def test_networks_of_some_places_are_those_of_the_whole_convolution():
    torch.manual_seed(0)
    controller = nn.Conv2d(6, 169, 3, padding=1)
    levels = tuple(torch.randn(2, 6, *size) for size in ((5, 7), (3, 4), (1, 1)))
    kernels = Kernels(levels, controller)
    whole = torch.cat([kernels.controller(level).flatten(2) for level in kernels.levels], 2)  # (2, 169, 35 + 12 + 1)
    places = torch.tensor([47, 0, 6, 34, 35, 20, 46, 20])  # corners, edges, one twice, every level, in no order
    for image in (0, 1):
        assert torch.allclose(kernels.at(image, places), whole[image].T[places], atol=1e-5)
    assert kernels.at(0, places[:0]).shape == (0, 169)
    kernels.at(1, places).square().sum().backward()
    learnt = controller.weight.grad.clone()
    controller.zero_grad()
    everywhere = torch.cat([kernels.controller(level).flatten(2) for level in kernels.levels], 2)
    everywhere[1].T[places].square().sum().backward()
    assert torch.allclose(learnt, controller.weight.grad, rtol=1e-4, atol=1e-4)
