"""RoI warping: its samples, and the gradient that reaches the box."""

from __future__ import annotations

import pytest
import torch

from eachmask.ops.roi import roi_align, roi_warp


def maps(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 64 // s, 96 // s, generator=generator, dtype=dtype) for s in (4, 8)]


BOXES = [torch.tensor([[10.0, 11, 43, 38], [3, 5, 93, 61]]), torch.tensor([[20.0, 20, 29, 33.0]])]


def test_reads_a_ramp_where_its_bins_are():
    # Pixel i of a map of stride 4 lies at 4 (i + 1/2) px; the ramp says so, so reading it gives the place.
    ramp = (4 * (torch.arange(24.0) + 0.5)).expand(1, 1, 16, 24)
    read = roi_warp([ramp], [torch.tensor([[10.0, 8, 50, 40]])], 5, (4,))
    assert read[0, 0, 2].tolist() == pytest.approx([14, 22, 30, 38, 46])


def test_is_roi_align_with_one_point_per_bin():
    features = maps(torch.float32)[:1]
    expected = roi_align(features, BOXES, 6, (4,), sampling=1, aligned=True)
    assert torch.allclose(roi_warp(features, BOXES, 6, (4,)), expected, atol=1e-5)


def test_takes_each_box_from_its_level():
    features = [m + 100 * i for i, m in enumerate(maps(torch.float32))]
    features = [torch.full_like(m, float(i)) for i, m in enumerate(features)]
    large = torch.tensor([[0.0, 0, 200, 200]])
    read = roi_warp(features, [torch.cat([BOXES[0][:1], large, BOXES[0][:1]]), large], 2, (4, 8))
    assert read[:, 0, 0, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("which", ["box", "features"])
def test_gradients_are_those_of_finite_differences(which):
    features, boxes = maps(), [b.double() + 0.137 for b in BOXES]  # bilinear reading has kinks at pixel centers
    if which == "box":
        boxes = [b.requires_grad_() for b in boxes]
        inputs = boxes
    else:
        features = inputs = [m.requires_grad_() for m in features]
    number = len(inputs)

    def read(*values):
        given = (features, values) if which == "box" else (values, boxes)
        return roi_warp(*given, 4, (4, 8))

    assert number == 2 and torch.autograd.gradcheck(read, tuple(inputs), eps=1e-6, atol=1e-6)


def test_the_gradient_of_a_box_points_to_where_the_object_is():
    blob = torch.exp(-((torch.arange(32.0) - 20) ** 2) / 30).expand(1, 1, 32, 32)  # bright around x = 82 px
    box = torch.tensor([[40.0, 40, 72, 72]], requires_grad=True)
    roi_warp([blob], [box], 7, (4,)).mean().backward()
    assert box.grad[0, 0] > 0 and box.grad[0, 2] > 0 and box.grad[0, 1].abs() < 1e-6


def test_no_boxes():
    features = [m.requires_grad_() for m in maps()]
    read = roi_warp(features, [torch.zeros(0, 4)] * 2, 7, (4, 8))
    assert read.shape == (0, 3, 7, 7)
    read.sum().backward()
    assert all(m.grad is not None for m in features)
