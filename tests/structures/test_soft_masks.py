"""Coarse maps become the pixels that resizing whole maps would give, object by object."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eachmask.structures import RLE, Instances, SoftMasks
from eachmask.structures.logit_masks import LogitMasks
from eachmask.structures.soft_masks import Canvas

CHAINS = [
    # map, padded, valid, size
    ((16, 20), (64, 80), (64, 80), (64, 80)),
    ((16, 20), (64, 80), (61, 75), (79, 97)),
    ((16, 20), (64, 80), (57, 80), (33, 41)),
    ((13, 7), (101, 57), (99, 50), (250, 131)),
    ((40, 33), (21, 30), (20, 29), (64, 200)),  # the map is finer than the tensor
    ((5, 6), (20, 24), (1, 1), (3, 2)),
]


def blobs(num: int, grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Smooth objects of several sizes; the first map is empty, the second full."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(grid[0]) + 0.5, torch.arange(grid[1]) + 0.5, indexing="ij")
    center = torch.rand(num, 2, generator=generator) * torch.tensor(grid)
    radius = (0.03 + 0.4 * torch.rand(num, generator=generator)) * min(grid)
    distance = ((ys - center[:, 0, None, None]) ** 2 + (xs - center[:, 1, None, None]) ** 2).sqrt()
    maps = torch.sigmoid(2 * (radius[:, None, None] - distance) + torch.randn(num, *grid, generator=generator))
    maps[0], maps[1] = 0.4, 0.9
    return maps


def resized(maps: torch.Tensor, padded, valid, size) -> torch.Tensor:
    """The definition: whole maps, resized twice."""
    large = F.interpolate(maps[:, None], size=padded, mode="bilinear", align_corners=False)
    cut = large[:, :, : valid[0], : valid[1]]
    return F.interpolate(cut, size=size, mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize(("grid", "padded", "valid", "size"), CHAINS)
def test_same_pixels_as_resizing_whole_maps(grid, padded, valid, size, threshold):
    maps = blobs(30, grid)
    maps[0] *= threshold
    values = resized(maps, padded, valid, size).numpy()
    masks = SoftMasks.from_maps(maps, padded, valid, threshold)
    assert masks.size == valid
    found = masks.resize(size).to_rle().decode()
    clear = np.abs(values - threshold) > 1e-5
    assert found.shape == values.shape and np.array_equal(found[clear], (values >= threshold)[clear])
    assert clear.mean() > 0.99 and not found[0].any() and found[1].all()


@pytest.mark.parametrize(("samples", "mode"), [("direct", "bilinear"), ("cubic", "bicubic")])
@pytest.mark.parametrize("size", [(91, 123), (13, 40)])
def test_maps_that_are_resized_once_are_as_torch_resizes_them(samples, mode, size):
    maps = torch.logit(blobs(10, (16, 20)))
    values = F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0].numpy()
    found = LogitMasks(maps, Canvas((16, 20), (64, 80), (64, 80), size, samples)).to_rle().decode()
    clear = np.abs(values) > 1e-4
    assert np.array_equal(found[clear], (values > 0)[clear]) and clear.mean() > 0.99


def test_noise_which_has_holes_and_islands():
    maps = torch.rand(12, 16, 20, generator=torch.Generator().manual_seed(1))
    values = resized(maps, (64, 80), (60, 77), (143, 190)).numpy()
    found = SoftMasks.from_maps(maps, (64, 80), (60, 77)).resize((143, 190)).to_rle().decode()
    clear = np.abs(values - 0.5) > 1e-5
    assert np.array_equal(found[clear], (values >= 0.5)[clear])


def test_logits_are_maps_too():
    maps = torch.logit(blobs(10, (16, 20)))
    values = resized(maps, (64, 80), (60, 77), (91, 80)).numpy()
    found = SoftMasks.from_maps(maps, (64, 80), (60, 77), threshold=0.0).resize((91, 80)).to_rle().decode()
    assert (found != (values >= 0)).mean() < 1e-4


def test_aligned_corners_put_cells_half_a_pixel_further():
    """Pixel p of a map enlarged k times reads the place p / k - 1/2."""
    maps = blobs(10, (16, 20))
    ys, xs = torch.meshgrid(torch.arange(64) / 4 - 0.5, torch.arange(80) / 4 - 0.5, indexing="ij")
    where = torch.stack([(xs + 0.5) / 20 * 2 - 1, (ys + 0.5) / 16 * 2 - 1], -1).expand(10, -1, -1, -1)
    values = F.grid_sample(maps[:, None], where, padding_mode="border", align_corners=False)[:, 0].numpy()
    found = SoftMasks.from_maps(maps, (64, 80), (64, 80), samples="corners").to_rle().decode()
    clear = np.abs(values - 0.5) > 1e-5
    assert np.array_equal(found[clear], (values >= 0.5)[clear])


def test_resizing_again_starts_from_the_maps():
    masks = SoftMasks.from_maps(blobs(8, (16, 20)), (64, 80), (61, 75))
    once, again = masks.resize((122, 150)), masks.resize((10, 10)).resize((122, 150))
    assert np.array_equal(once.to_rle().counts, again.to_rle().counts)


def test_only_cells_that_matter_are_kept():
    maps = torch.zeros(3, 100, 100)
    maps[1, 40:43, 50:55] = 1
    masks = SoftMasks.from_maps(maps, (400, 400), (400, 400))
    assert [tuple(crop.shape) for crop in masks.crops] == [(0, 0), (7, 9), (0, 0)]
    assert masks.crops[1].untyped_storage().nbytes() == 7 * 9 * 4
    assert masks.area().tolist() == [0, 3 * 4 * 5 * 4 - 4, 0]  # bilinear values round the corners


def test_indexing_joining_and_none_at_all():
    masks = SoftMasks.from_maps(blobs(6, (16, 20)), (64, 80), (61, 75))
    some = masks[[4, 2]]
    assert np.array_equal(some.to_rle().decode(), masks.to_rle().decode()[[4, 2]])
    joined = SoftMasks.join([masks[:2], masks[2:]])
    assert np.array_equal(joined.to_rle().counts, masks.to_rle().counts)
    assert np.array_equal(pickle.loads(pickle.dumps(masks)).area(), masks.area())
    none = SoftMasks.from_maps(torch.zeros(0, 16, 20), (64, 80), (61, 75)).resize((5, 6))
    assert len(none) == 0 and len(none.to_rle()) == 0 and none.to_rle().size == (5, 6)
    assert tuple(none.rough_boxes().shape) == (0, 4)
    with pytest.raises(ValueError, match="nothing to join"):
        SoftMasks.join([])
    with pytest.raises(ValueError, match="coarse maps on"):
        SoftMasks.join([masks, masks.resize((5, 5))])


def test_rejects_what_does_not_pair_off():
    masks = SoftMasks.from_maps(blobs(6, (16, 20)), (64, 80), (61, 75))
    with pytest.raises(ValueError, match="6 crops at 2 places"):
        SoftMasks(masks.crops, masks.origins[:2], masks.canvas)
    with pytest.raises(ValueError, match="outside"):
        SoftMasks(masks.crops, masks.origins, masks.canvas, threshold=0.0)


def test_rough_boxes_are_those_of_the_pixels_within_a_cell():
    masks = SoftMasks.from_maps(blobs(30, (16, 20), seed=3), (64, 80), (64, 80)).resize((128, 160))
    exact, rough = masks.boxes(), masks.rough_boxes().numpy()
    assert np.abs(exact - rough).max() <= 6  # a cell is 8 pixels
    assert np.array_equal(rough[0], np.zeros(4)) and np.array_equal(rough[1], [0, 0, 160, 128])


def test_belong_to_instances():
    masks = SoftMasks.from_maps(blobs(4, (16, 20)), (64, 80), (61, 75))
    found = Instances(image_size=(61, 75), boxes=masks.rough_boxes(), masks=masks).resize((122, 150))
    assert isinstance(found.masks, SoftMasks) and isinstance(found.masks.to_rle(), RLE)
    assert found.masks.size == (122, 150)
