"""Ways to enlarge a map, on the worked numbers that textbooks print."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eachmask.ops import upsampling as up

MAP = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
BILINEAR = [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]]
BICUBIC = [[0.68, 1.02, 1.56, 1.89], [1.35, 1.68, 2.23, 2.56], [2.44, 2.77, 3.32, 3.65], [3.11, 3.44, 3.98, 4.32]]


def test_bed_of_nails():
    assert up.bed_of_nails(MAP)[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


def test_interpolation():
    assert up.interpolated(MAP, "nearest")[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert up.interpolated(MAP, "bilinear")[0, 0].tolist() == BILINEAR
    assert up.interpolated(MAP, "bicubic")[0, 0] == pytest.approx(torch.tensor(BICUBIC), abs=0.006)


def test_max_unpooling():
    before = torch.tensor([[[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]]])
    pooled, switches = up.max_pool(before)
    assert pooled[0, 0].tolist() == [[5, 6], [7, 8]]
    assert up.max_unpool(MAP, switches, (4, 4))[0, 0].tolist() == [
        [0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4],
    ]  # fmt: skip


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_a_transposed_convolution_can_interpolate(factor):
    maps = torch.randn(1, 2, 6, 5)
    kernel = up.bilinear_kernel(2, factor)
    enlarged = F.conv_transpose2d(maps, kernel, stride=factor, padding=factor // 2)
    expected = up.interpolated(maps, "bilinear", factor)
    inner = slice(factor, -factor)
    assert enlarged.shape == expected.shape
    assert torch.allclose(enlarged[..., inner, inner], expected[..., inner, inner], atol=1e-5)


def test_kernels_that_the_stride_does_not_divide_paint_a_checkerboard():
    def painted(kernel: int, stride: int) -> torch.Tensor:
        """A constant map enlarged by a kernel of equal weights, away from the border."""
        enlarged = F.conv_transpose2d(torch.ones(1, 1, 12, 12), torch.ones(1, 1, kernel, kernel), stride=stride)
        return enlarged[..., 2 * stride : -2 * stride, 2 * stride : -2 * stride]

    for kernel, stride, times in ((3, 2, [1, 2, 4]), (4, 2, [4]), (5, 3, [1, 2, 4])):
        assert painted(kernel, stride).unique().tolist() == times
    assert float(up.checkerboard(painted(3, 2))) == pytest.approx(1, abs=1e-4)
    assert float(up.checkerboard(painted(4, 2))) < 1e-6


def test_sub_pixel_convolution_starts_without_a_checkerboard():
    torch.manual_seed(0)
    image = up.interpolated(torch.randn(1, 3, 6, 6), "bilinear", 4)
    layer = nn.Conv2d(3, 4 * 4, 3, padding=1)
    with torch.no_grad():
        usual = float(up.checkerboard(up.sub_pixel(layer(image))))
        up.icnr_(layer.weight)
        up.icnr_(layer.bias)
        calm = up.sub_pixel(layer(image))
    assert torch.equal(calm, up.interpolated(calm[..., ::2, ::2], "nearest"))
    assert float(up.checkerboard(calm)) < 1e-6 < 0.1 < usual
