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
    polarmask_lite0_fpn,
    rays_to,
)
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances


def disc(size: int, middle: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (x - middle) ** 2 + (y - middle) ** 2 <= radius**2


def target_of(*bitmaps: np.ndarray) -> Instances:
    masks = RLE.from_bitmaps(np.stack(bitmaps))
    return Instances(masks.size, torch.from_numpy(masks.boxes()), masks=masks)


def test_the_first_ray_points_down_and_the_next_to_the_right():
    assert torch.allclose(directions(4), torch.tensor([[0.0, 1], [1, 0], [0, -1], [-1, 0]]), atol=1e-6)


def test_directions_are_the_authors_to_the_bit():
    """In radians of a turn's share, sines and cosines that should be 0 have other signs, and masks other pixels."""
    degrees = torch.arange(0, 360, 10).float() / 180 * math.pi
    assert torch.equal(directions(36), torch.stack([degrees.sin(), degrees.cos()], dim=1))
    across = [float(directions(36)[9, 1]), float(directions(36)[18, 0]), float(directions(36)[27, 1])]
    assert [math.copysign(1, value) for value in across] == [-1, -1, 1]


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
    rays, expected = torch.tensor([[2.0, 4, 6, 8]]), torch.tensor([[4.0, 4, 4, 4]])
    assert float(polar_iou_loss(rays, expected)) == pytest.approx(math.log((4 + 4 + 6 + 8) / (2 + 4 + 4 + 4)))
    assert float(polar_iou_loss(expected, expected)) == 0
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


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return polarmask_lite0_fpn(num_classes=1, rays={"num": 4}).eval()


def two_boxes(model, second: float):
    """An image where two places of the finest level are sure of boxes of 4 x 8 px, the second shifted by so much."""
    with torch.inference_mode():
        raw = model(ImageBatch.from_tensors([torch.zeros(3, 32, 32)]))
    quiet = [torch.full_like(level, -20.0) for level in raw.detection.logits]
    quiet[0][0, 0, 0, 0], quiet[0][0, 0, 0, 1] = 3.0, 2.0  # places at (4, 4) and (12, 4)
    distances = [torch.ones_like(level) for level in raw.detection.distances]
    distances[0][0, :, 0, 0] = torch.tensor([2.0, 4, 2, 4])
    distances[0][0, :, 0, 1] = torch.tensor([10.0 - second, 4, second - 6, 4])
    centerness = tuple(torch.full_like(level, 20.0) for level in raw.detection.centerness)
    detection = raw.detection._replace(logits=tuple(quiet), distances=tuple(distances), centerness=centerness)
    return raw._replace(detection=detection)


def test_boxes_suppress_one_another_as_if_they_were_a_pixel_larger(model):
    """Two boxes of 4 px, shifted by 1.5: IoU 2.5 / 5.5 = 0.45; as 5 px, 3.5 / 6.5 = 0.54, which is above 0.5."""
    (found,) = model.decode(two_boxes(model, 1.5), DecodeOptions(with_masks=False))
    assert found.boxes.tolist() == [[2, 0, 6, 8]]
    (found,) = model.decode(two_boxes(model, 2.0), DecodeOptions(with_masks=False))
    assert found.boxes.tolist() == [[2, 0, 6, 8], [4, 0, 8, 8]]


def test_iou_of_boxes_that_are_learnt_counts_both_end_pixels(model):
    """Predicted boxes of 4 x 8 px for objects of 5 x 8: -log((5 * 9) / (6 * 9)), not -log(4 / 5)."""
    raw = two_boxes(model, 1.5)
    matched = torch.full((sum(level[0].numel() for level in raw.detection.logits),), -1)
    matched[0] = 0
    target = Instances((32, 32), torch.tensor([[2.0, 0, 7, 8]]), labels=torch.zeros(1, dtype=torch.int64))
    losses = model.losses_of(raw, [target], [matched], torch.ones(1, 4))
    assert float(losses["box"]) == pytest.approx(-math.log(45 / 54), abs=1e-5)


def test_no_score_is_above_1_and_a_threshold_of_1_lets_none_through(model):
    raw = two_boxes(model, 8.0)
    (found,) = model.decode(raw, DecodeOptions(with_masks=False))
    assert found.scores.tolist() == [1, 1], "probabilities of 0.95 and 0.88 times 1.5"
    (none,) = model.decode(raw, DecodeOptions(with_masks=False, score_threshold=1.0))
    assert len(none) == 0
