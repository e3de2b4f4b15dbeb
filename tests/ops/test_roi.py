from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torchvision

from eachmask import accel
from eachmask.accel import roi_cpu
from eachmask.ops.roi import in_groups, roi_align, roi_levels, roi_pool


def pyramid(channels: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, 128 // s, 192 // s, generator=generator) for s in (4, 8, 16, 32)]


def regions(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([180.0, 120.0]) - 8
    return torch.cat([corner, corner + torch.rand(num, 2, generator=generator) ** 3 * 190 + 0.3], dim=1)


@pytest.mark.parametrize("size", [7, 14])
def test_equals_torchvisions_pooler(size):
    maps, boxes = pyramid(), [regions(30), regions(9, 1)]
    theirs = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
    expected = theirs(OrderedDict(zip("0123", maps, strict=True)), boxes, [(128, 192), (128, 192)])
    assert torch.allclose(roi_align(maps, boxes, size, (4, 8, 16, 32)), expected, atol=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 2, 3])
def test_one_level_equals_torchvisions_kernel(aligned, sampling):
    maps, boxes = pyramid()[:1], [regions(12), regions(0)]
    expected = torchvision.ops.roi_align(maps[0], boxes, (5, 5), 0.25, sampling, aligned)
    assert torch.allclose(roi_align(maps, boxes, 5, (4,), sampling, aligned), expected, atol=1e-5)


def test_no_boxes_and_gradients():
    maps = [m.requires_grad_() for m in pyramid()]
    assert roi_align(maps, [torch.zeros(0, 4)] * 2, 7, (4, 8, 16, 32)).shape == (0, 8, 7, 7)
    roi_align(maps, [regions(5), regions(5, 1)], 7, (4, 8, 16, 32)).sum().backward()
    assert maps[0].grad is not None and maps[0].grad.abs().sum() > 0


def test_level_of_a_box_is_that_of_the_paper():
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert roi_levels(boxes, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # P2 P2 P3 P3 P4 P4 P5 P5


def test_the_two_quantizations_of_roi_pool_on_a_worked_example():
    # Stride 1, a ramp that says its own column, and a box of 5.6 px from 1.4 on.
    ramp = torch.arange(10.0).expand(1, 1, 4, 10).contiguous()
    box = [torch.tensor([[1.4, 0.0, 7.0, 3.0]])]
    # First rounding: columns 1 .. 7, seven of them. Second: bins of 3.5 become [1, 5) and [4, 8); their last is
    # largest.
    assert roi_pool([ramp], box, 2, (1,))[0, 0, 0].tolist() == [4, 7]
    # RoIAlign averages points at 1.4 + 5.6 * (1, 3, 5, 7) / 8 without rounding anything.
    expected = [1.4 + 5.6 * 2 / 8, 1.4 + 5.6 * 6 / 8]
    assert roi_align([ramp], box, 2, (1,))[0, 0, 0].tolist() == pytest.approx(expected)
    # A shift of 0.05 px moves RoIAlign's answer by 0.05 and RoIPool's not at all.
    moved = [box[0] + torch.tensor([0.05, 0, 0.05, 0])]
    assert torch.equal(roi_pool([ramp], moved, 2, (1,)), roi_pool([ramp], box, 2, (1,)))
    shift = roi_align([ramp], moved, 2, (1,)) - roi_align([ramp], box, 2, (1,))
    assert shift[0, 0, 0].tolist() == pytest.approx([0.05] * 2, abs=1e-5)


def test_roi_pool_from_several_levels():
    maps, boxes = pyramid(), [regions(20), regions(4, 1)]
    levels = roi_levels(torch.cat(boxes), 4)
    each = [torchvision.ops.roi_pool(m, boxes, (7, 7), 1 / s) for m, s in zip(maps, (4, 8, 16, 32), strict=True)]
    expected = torch.stack(each)
    assert torch.equal(roi_pool(maps, boxes, 7, (4, 8, 16, 32)), expected[levels, torch.arange(24)])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [1, 2])
def test_gradients_on_the_cpu_are_torchvisions(aligned, sampling):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn((2, 8, side, side + 3), generator=generator) for side in (64, 32)]
    maps = [m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in maps]
    corners = torch.rand((2, 12, 2), generator=generator) * 200 - 10  # some reach over the edge
    boxes = list(torch.cat([corners, corners + torch.rand((2, 12, 2), generator=generator) * 300], dim=2))
    assert set(roi_levels(torch.cat(boxes), 2).tolist()) == {0, 1}
    rois = torch.zeros(1, 5)
    assert roi_cpu.applies(maps, rois, sampling)

    def gradients() -> list[torch.Tensor]:
        pooled = roi_align(maps, boxes, 5, (4, 8), sampling, aligned)
        above = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
        return list(torch.autograd.grad(pooled, maps, above))

    ours, again = gradients(), gradients()
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(accel.SWITCH, "roi_cpu")
        assert not roi_cpu.applies(maps, rois, sampling)
        theirs = gradients()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
    assert all(float(b.abs().sum()) > 0 for b in theirs)


def test_gradients_without_regions_are_zero():
    maps = [torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()]
    pooled = roi_align(maps, [torch.zeros(0, 4)], 7, (4,))
    pooled.sum().backward()
    assert pooled.shape == (0, 4, 7, 7) and float(maps[0].grad.abs().sum()) == 0


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_groups_together_are_all_boxes_in_order(at_once):
    boxes = [torch.arange(8.0).reshape(2, 4), torch.zeros(0, 4), torch.arange(20.0).reshape(5, 4)]
    groups = list(in_groups(boxes, at_once))
    assert all(sum(len(b) for b in group) <= at_once for group in groups)
    joined = torch.cat([torch.cat(group) for group in groups])
    assert torch.equal(joined, torch.cat(boxes))
    assert [len(group) for group in in_groups([torch.zeros(0, 4)], 2)] == [1]
