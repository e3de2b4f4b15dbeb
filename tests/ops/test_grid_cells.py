from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from eachmask.ops.grid_cells import cell_centers_within, center_of_mass, every_cell
from eachmask.structures import RLE


def ellipses(num: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((num, *size), bool)
    for mask in masks:
        cy, cx = rng.uniform(0, 1, 2) * size
        ry, rx = rng.uniform(2, 30, 2)
        mask[((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1] = True
    return masks


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_coarse_masks_are_opencvs(stride):
    masks = ellipses(20, (96, 128))
    which = torch.tensor([3, 3, 0, 19, 7])
    found = every_cell(RLE.from_bitmaps(masks), which, stride, torch.Size((96 // stride, 128 // stride)))
    for mask, i in zip(found.numpy(), which.tolist(), strict=True):
        small = cv2.resize(masks[i].astype(np.uint8), (128 // stride, 96 // stride), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(mask, small.astype(bool))


def test_an_image_that_ends_within_a_cell():
    masks = np.ones((1, 90, 117), bool)
    found = every_cell(RLE.from_bitmaps(masks), torch.tensor([0]), 4, torch.Size((24, 32)))[0]
    # Row 22 spans pixels 88 ... 91, and of its middle, 89 and 90, only 89 is there.
    assert found[:23, :29].all() and not found[23:].any() and not found[:, 29:].any()


def test_center_of_mass_is_scipys():
    masks = ellipses(10, (60, 80), seed=1)
    bitmaps = RLE.from_bitmaps(masks).to_bitmaps()
    for i, mask in enumerate(masks):
        assert center_of_mass(bitmaps[i]) == pytest.approx(ndimage.center_of_mass(mask)[::-1], abs=1e-3)


def test_cells_whose_center_lies_in_the_mask():
    masks = ellipses(6, (60, 80), seed=2)
    bitmaps = RLE.from_bitmaps(masks).to_bitmaps()
    for i, mask in enumerate(masks):
        padded = np.zeros((64, 96), bool)
        padded[:60, :80] = mask
        rows, columns = ((np.arange(12) + 0.5) * 64 / 12).astype(int), ((np.arange(12) + 0.5) * 96 / 12).astype(int)
        assert np.array_equal(cell_centers_within(bitmaps[i], (64, 96), 12).numpy(), padded[np.ix_(rows, columns)])
