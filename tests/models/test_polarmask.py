"""PolarMask's geometry: rays, outlines, what they cost, and the masks that they make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eachmask.models.instance.polarmask import (
    SHORTEST,
    RayMasks,
    directions,
    ends,
    mass_center,
    outline,
    polar_centerness,
    polar_iou_loss,
    rays_to,
)
from eachmask.structures import RLE, Instances


def disc(size: int, middle: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (x - middle) ** 2 + (y - middle) ** 2 <= radius**2


def target_of(*bitmaps: np.ndarray) -> Instances:
    masks = RLE.from_bitmaps(np.stack(bitmaps))
    return Instances(masks.size, torch.from_numpy(masks.boxes()), masks=masks)


def test_the_first_ray_points_down_and_the_next_to_the_right():
    assert torch.allclose(directions(4), torch.tensor([[0.0, 1], [1, 0], [0, -1], [-1, 0]]), atol=1e-6)


def test_rays_of_a_disc_are_its_radius():
    border = outline(target_of(disc(65, 32, 20)), 0)
    rays = rays_to(torch.tensor([[32.0, 32.0]]), border, 36)
    assert float((rays - 20).abs().max()) < 0.8  # pixels are no circle
    assert mass_center(border).tolist() == pytest.approx([32, 32], abs=0.01)


def test_a_ray_goes_to_the_last_of_several_crossings():
    comb = torch.tensor([[0.0, 0], [40, 0], [40, 10], [30, 10], [30, 5], [20, 5], [20, 10], [0, 10]])
    rays = rays_to(torch.tensor([[10.0, 7.0]]), comb, 4)
    assert rays[0].tolist() == pytest.approx([3, 30, 7, 10])


def test_the_largest_part_is_the_outline_and_a_box_stands_in_for_a_lost_mask():
    two = disc(40, 10, 3) | np.roll(disc(40, 10, 6), (18, 18), (0, 1))
    assert outline(target_of(two), 0).min() > 15
    boxed = Instances((40, 40), torch.tensor([[1.0, 2, 5, 9]]))
    assert mass_center(outline(boxed, 0)).tolist() == [3, 5.5]


def test_polar_iou_and_centerness_are_the_papers():
    rays, wanted = torch.tensor([[2.0, 4, 6, 8]]), torch.tensor([[4.0, 4, 4, 4]])
    assert float(polar_iou_loss(rays, wanted)) == pytest.approx(math.log((4 + 4 + 6 + 8) / (2 + 4 + 4 + 4)))
    assert float(polar_iou_loss(wanted, wanted)) == 0
    assert float(polar_centerness(rays)) == pytest.approx(0.5)
    assert torch.isfinite(polar_iou_loss(rays, torch.full((1, 4), SHORTEST))).all()


def test_a_disc_comes_back_from_its_rays():
    bitmap = disc(65, 32, 20)
    rays = rays_to(torch.tensor([[32.0, 32.0]]), outline(target_of(bitmap), 0), 36)
    masks = RayMasks(ends(torch.tensor([[32.0, 32.0]]), rays).numpy(), (65, 65))
    assert masks.iou(RLE.from_bitmaps(bitmap[None]))[0, 0] > 0.95
    enlarged = masks.resize((130, 130))
    assert enlarged.area()[0] == pytest.approx(4 * masks.area()[0], rel=0.1)


def test_indexing_and_no_masks_at_all():
    square = np.array([[2.0, 2], [6, 2], [6, 5], [2, 5]])
    masks = RayMasks(np.stack([square, square + 10]), (20, 30))
    assert masks.area().tolist() == [20, 20], "the pixels under the outline belong to it"
    assert masks[1].boxes().tolist() == [[12, 12, 17, 16]]
    assert len(RayMasks(np.zeros((0, 4, 2)), (20, 30)).to_rle()) == 0
