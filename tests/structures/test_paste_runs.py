from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from eachmask.structures import RLE
from eachmask.structures import boxes as box_ops
from eachmask.structures.paste_runs import paste_to_rle

HEIGHT, WIDTH = 90, 120


def blobs(num: int, side: int = 28, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num, 1, 6, 6, generator=generator)
    return torch.sigmoid(3 * F.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0])


def boxes(num: int, seed: int = 0) -> torch.Tensor:
    """Inside, across the border, wholly outside, tiny, larger than the image."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([WIDTH + 20.0, HEIGHT + 20.0]) - 20
    sides = 0.5 + torch.rand(num, 2, generator=generator) ** 2 * 160
    return torch.cat([corner, corner + sides], dim=1)


def pasted(probabilities: torch.Tensor, where: torch.Tensor, mode: str, threshold: float = 0.5) -> np.ndarray:
    size = (HEIGHT, WIDTH)
    return RLE(*paste_to_rle(probabilities, where, size, threshold, mode), size).decode()


def sampled(probabilities: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The definition of the accurate mode: the grid read at every pixel's center, 0 around it."""
    ys, xs = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    x = (xs[None] - where[:, 0, None, None]) / (where[:, 2] - where[:, 0])[:, None, None] * 2 - 1
    y = (ys[None] - where[:, 1, None, None]) / (where[:, 3] - where[:, 1])[:, None, None] * 2 - 1
    return F.grid_sample(probabilities[:, None], torch.stack([x, y], dim=-1), align_corners=False)[:, 0]


@pytest.mark.parametrize("side", [14, 28, 31])
def test_compatible_is_torchvision_pixel_by_pixel(side):
    # torchvision's detector clips its boxes before it pastes (and fails on boxes outside the image).
    probabilities, where = blobs(60, side), box_ops.clip(boxes(60), (HEIGHT, WIDTH))
    theirs = paste_masks_in_image(probabilities[:, None], where, (HEIGHT, WIDTH))[:, 0]
    found = pasted(probabilities, where, "compatible")
    clear = (theirs - 0.5).abs().numpy() > 1e-5
    assert np.array_equal(found[clear], (theirs > 0.5).numpy()[clear])
    assert clear.mean() > 0.999 and found.any()


def test_accurate_reads_the_grid_at_pixel_centers():
    probabilities, where = blobs(60, seed=1), boxes(60, seed=1)
    values = sampled(probabilities, where)
    found = pasted(probabilities, where, "accurate")
    clear = (values - 0.5).abs().numpy() > 1e-4
    assert np.array_equal(found[clear], (values >= 0.5).numpy()[clear])


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_threshold(threshold):
    probabilities, where = blobs(20, seed=2), boxes(20, seed=2)
    values = sampled(probabilities, where)
    clear = (values - threshold).abs().numpy() > 1e-4
    found = pasted(probabilities, where, "accurate", threshold)
    assert np.array_equal(found[clear], (values >= threshold).numpy()[clear])


@pytest.mark.parametrize("mode", ["accurate", "compatible"])
def test_what_lies_outside_or_has_no_extent_is_empty(mode):
    where = torch.tensor(
        [[-50.0, -50, -10, -10], [200, 10, 300, 60], [10, 10, 10, 40], [30, 30, 20, 20], [float("nan"), 0, 5, 5]]
    )
    found = pasted(torch.ones(5, 28, 28), where, mode)
    if mode == "accurate":
        assert not found.any()
    assert not found[[0, 1, 4]].any()


def test_a_full_box_fills_its_pixels_and_nothing_else():
    found = pasted(torch.ones(1, 28, 28), torch.tensor([[10.0, 20, 50, 60]]), "accurate")[0]
    assert found[21:59, 11:49].all() and not found[:19].any() and not found[61:].any() and not found[:, :9].any()


def test_no_masks_and_wrong_arguments():
    counts, offsets = paste_to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6))
    assert len(counts) == 0 and offsets.tolist() == [0]
    with pytest.raises(ValueError, match="mode must be"):
        paste_to_rle(torch.zeros(1, 28, 28), torch.zeros(1, 4), (5, 6), 0.5, "fast")
    with pytest.raises(ValueError, match="threshold"):
        paste_to_rle(torch.zeros(1, 28, 28), torch.zeros(1, 4), (5, 6), 0.0)
    with pytest.raises(ValueError, match="expected probabilities"):
        paste_to_rle(torch.zeros(2, 28, 28), torch.zeros(1, 4), (5, 6))
