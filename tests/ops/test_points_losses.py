from __future__ import annotations

import pytest
import torch
import torchvision
from torch.nn import functional as F

from eachmask.ops import losses
from eachmask.ops.points import most_uncertain_cells, point_sample, sample_uncertain_points, uncertainty


def test_points_at_pixel_centers_are_the_pixels():
    maps = torch.randn(2, 3, 4, 6)
    ys, xs = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6, indexing="ij")
    points = torch.stack([xs, ys], dim=-1).reshape(1, -1, 2).expand(2, -1, -1)
    assert torch.allclose(point_sample(maps, points), maps.flatten(2), atol=1e-6)
    assert point_sample(maps, torch.full((2, 1, 2), 2.0)).abs().sum() == 0


def test_uncertainty_is_that_of_the_sampled_value():
    # Between logits -1 and 1 lies 0, the most uncertain value of all.
    logits = torch.tensor([[[[-1.0, 1.0]]]])
    middle = torch.tensor([[[0.5, 0.5]]])
    assert uncertainty(point_sample(logits, middle)).item() == 0
    assert point_sample(uncertainty(logits), middle).item() == -1


def test_uncertain_points_gather_at_the_boundary():
    logits = torch.linspace(-8, 8, 32).expand(1, 1, 32, 32).contiguous()
    points = sample_uncertain_points(logits, 200, generator=torch.Generator().manual_seed(0))
    assert points.shape == (1, 200, 2) and points.min() >= 0 and points.max() <= 1
    distance = (points[0, :150, 0] - 0.5).abs()
    assert distance.max() < 0.2 and (points[0, 150:, 0] - 0.5).abs().max() > 0.3


def test_cells_to_refine():
    logits = torch.full((1, 1, 4, 4), 5.0)
    logits[0, 0, 2, 1] = 0.1
    index, points = most_uncertain_cells(uncertainty(logits), 1)
    assert index.tolist() == [[9]] and points.tolist() == [[[0.375, 0.625]]]
    assert most_uncertain_cells(logits, 99)[0].shape == (1, 16)


def test_focal_equals_torchvision_and_gamma_0_is_cross_entropy():
    logits, targets = torch.randn(50), (torch.rand(50) > 0.7).float()
    expected = torchvision.ops.sigmoid_focal_loss(logits, targets, reduction="sum")
    assert torch.allclose(losses.sigmoid_focal(logits, targets), expected, rtol=1e-5)
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    assert torch.allclose(losses.sigmoid_focal(logits, targets, alpha=-1, gamma=0), plain)


def test_quality_focal_vanishes_when_the_score_is_the_quality():
    quality = torch.tensor([0.2, 0.7, 0.99])
    assert losses.quality_focal(torch.logit(quality), quality).item() == pytest.approx(0, abs=1e-6)
    assert losses.quality_focal(torch.logit(quality), 1 - quality).item() > 0.1


def test_dice_forms_on_a_worked_example():
    p, t = torch.tensor([[0.5, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert losses.dice(p, t, "squared", eps=0).item() == pytest.approx(1 - 2 * 1.5 / (1.25 + 2))
    assert losses.dice(p, t, "plain", eps=1).item() == pytest.approx(1 - (3 + 1) / (1.5 + 2 + 1))
    ignored = torch.tensor([[0.0, 1, 1, 1]])
    assert losses.dice(p, t, "squared", eps=0, weight=ignored).item() == pytest.approx(0)


def test_smooth_l1_is_quadratic_inside_and_linear_outside():
    predicted, gt = torch.tensor([0.5, 3.0]), torch.zeros(2)
    assert losses.smooth_l1(predicted, gt, 1.0, "none").tolist() == pytest.approx([0.125, 2.5])
    assert losses.smooth_l1(predicted, gt, 0.0, "none").tolist() == pytest.approx([0.5, 3.0])


def test_giou_equals_torchvision():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4], [1, 1, 3, 3]])
    b = torch.tensor([[5.0, 5, 15, 15], [8, 8, 12, 12], [1, 1, 3, 3]])
    assert torch.allclose(losses.giou(a, b), torchvision.ops.generalized_box_iou_loss(a, b), atol=1e-5)


def test_nothing_to_average_is_zero_not_nan():
    none = torch.zeros(0, requires_grad=True)
    assert losses.quality_focal(none, torch.zeros(0), reduction="mean").item() == 0
    ones = torch.ones(3)
    assert losses.quality_focal(ones, 0 * ones, reduction="mean", weight=0 * ones).item() == 0


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("nearest", [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]),
        ("bilinear", [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]]),
        ("bicubic", [[0.68, 1.02, 1.56, 1.89], [1.35, 1.68, 2.23, 2.56],
                     [2.44, 2.77, 3.32, 3.65], [3.11, 3.44, 3.98, 4.32]]),
    ],
)  # fmt: skip
def test_the_upsamplings_that_models_use_are_those_of_worked_examples(mode, expected):
    corners = {} if mode == "nearest" else {"align_corners": False}
    found = F.interpolate(torch.tensor([[[[1.0, 2], [3, 4]]]]), scale_factor=2, mode=mode, **corners)[0, 0]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=0.006)
