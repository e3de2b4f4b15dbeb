from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eachmask.ops.coarse_masks import coarse_masks
from eachmask.ops.prototypes import assemble, on_grid, windows_of
from eachmask.structures import RLE


def test_masks_are_assembled_in_their_windows():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(4, 20, 30, generator=generator)
    coefficients = torch.randn(6, 4, generator=generator)
    inside, across = [[10.0, 10, 50, 40], [0, 0, 120, 80], [119, 79, 119, 79]], [[-30, -5, 20, 20], [100, 60, 140, 90]]
    boxes = torch.tensor([*inside, *across, [300, 9, 310, 10]])
    crops = assemble(prototypes, coefficients, boxes, (80, 120))
    whole = torch.einsum("np,phw->nhw", coefficients, prototypes).sigmoid()
    cells = on_grid(boxes, (80, 120), (20, 30))
    x, y = torch.arange(30), torch.arange(20)
    low, high = (cells[:, :2] - 1).clamp(min=0), cells[:, 2:] + 1
    inside = ((x >= low[:, :1]) & (x < high[:, :1]))[:, None] & ((y >= low[:, 1:]) & (y < high[:, 1:]))[:, :, None]
    for i in range(len(boxes)):
        found = torch.zeros(20, 30)
        left, top = crops.origins[i].tolist()
        height, width = crops.values[i].shape
        found[top : top + height, left : left + width] = crops.values[i]
        assert torch.allclose(found, whole[i] * inside[i], atol=1e-6), i
    assert crops.values[5].numel() == 0
    assert windows_of(cells, (20, 30))[1].tolist() == [0, 0, 30, 20]


@pytest.mark.parametrize(("size", "grid"), [((80, 112), (20, 28)), ((55, 71), (14, 18)), ((13, 11), (26, 30))])
def test_coarse_masks_equal_whole_masks_resized(size, grid):
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[: size[0], : size[1]]
    bitmaps = [
        (ys - size[0] / 2) ** 2 + (xs - size[1] / 3) ** 2 < (size[0] / 4) ** 2,
        (ys < 3) | (xs > size[1] - 4),
        rng.random(size) > 0.4,
        (ys == 5) & (xs == 7),
        np.zeros(size, bool),
    ]
    masks = RLE.from_bitmaps(np.stack(bitmaps))
    frame = (size[0] + 3, size[1] + 9)
    for around in (size, frame):
        whole = np.zeros((5, *around), np.float32)
        whole[:, : size[0], : size[1]] = bitmaps
        expected = F.interpolate(torch.from_numpy(whole)[None], size=grid, mode="bilinear")[0].numpy()
        for one, values in zip(coarse_masks(masks, around, grid), expected, strict=True):
            found = one.within([0, 0, grid[1], grid[0]])
            assert np.all((found == (values > 0.5)) | (abs(values - 0.5) < 1e-6))  # rounding decides at one half
            assert one.area == found.sum()
            assert np.array_equal(one.within([2, 3, 9, 8]), found[3:8, 2:9])
