"""R-CNN's and Fast R-CNN's own arithmetic, each against what the papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eachmask import models
from eachmask.models.detection.fast_rcnn import SamplingConfig, sample_boxes, sample_proposals
from eachmask.models.detection.rcnn import fit_ridge, fit_svm, hinge_loss, svm_signs, warp
from eachmask.structures import ImageBatch, Instances


def target(boxes: list[list[float]], labels: list[int]) -> Instances:
    return Instances((100, 100), torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.int64))


# Fast R-CNN


def test_samples_a_quarter_objects_and_the_harder_background_first():
    overlap = torch.tensor([[0.9] * 20 + [0.3] * 30 + [0.0] * 50])
    config = SamplingConfig(batch_size=40)
    chosen, matched = sample_proposals(overlap, torch.zeros(100, dtype=torch.bool), config)
    assert (chosen[matched >= 0] < 20).all() and int((matched >= 0).sum()) == 10
    assert ((chosen[matched < 0] >= 20) & (chosen[matched < 0] < 50)).all() and len(chosen) == 40
    crowd = torch.arange(100) >= 25  # most of the background lies in a crowd
    chosen, matched = sample_proposals(overlap, crowd, config)
    assert sorted(chosen[matched < 0].tolist()) == [20, 21, 22, 23, 24]


def test_sampled_proposals_carry_their_objects():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 80, 80], [0, 0, 12, 10]])
    sampled = sample_boxes(
        boxes, target([[0, 0, 10, 10], [60, 60, 60, 60]], [1, 0]), 2, SamplingConfig(positive_fraction=1.0)
    )
    label = {tuple(b): k for b, k in zip(sampled.boxes.tolist(), sampled.labels.tolist(), strict=True)}
    assert label == {(0, 0, 10, 10): 1, (0, 0, 12, 10): 1, (50, 50, 80, 80): 2}
    assert (sampled.matched_boxes[sampled.labels == 1] == torch.tensor([0.0, 0, 10, 10])).all()


# R-CNN


def test_a_warped_crop_has_its_context_around_it():
    # A ramp in x; the box of 40 px fills the middle 20 of 24 px, so one of these is 2 px and 2 of them lie around.
    ramp = (torch.arange(100.0) + 0.5).expand(1, 3, 100, 100)
    crop = warp(ramp, [torch.tensor([[30.0, 20, 70, 60]])], 24, 2)
    assert crop.shape == (1, 3, 24, 24)
    assert crop[0, 0, 5].tolist() == pytest.approx((30 - 4 + 2 * (np.arange(24) + 0.5)).tolist(), abs=1e-4)
    outside = warp(ramp, [torch.tensor([[0.0, 0, 40, 40]])], 24, 4)
    assert (outside[0, 0, :2] == 0).all(), "beyond the image there is the mean color"


def test_signs_of_the_support_vector_machines():
    gt = target([[0, 0, 10, 10], [50, 50, 80, 80]], [0, 1])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 40], [50, 50, 80, 80]])
    assert svm_signs(boxes, gt, 3, 0.3).tolist() == [[1, -1, -1], [0, -1, -1], [-1, -1, -1], [-1, 1, -1]]
    gt.crowd = torch.tensor([True, False])
    assert svm_signs(boxes, gt, 3, 0.3)[0].tolist() == [0, 0, 0]


def test_hinge_loss_by_hand():
    margins = torch.tensor([[2.0], [0.5], [-2.0], [-0.5], [0.0], [9.0]])
    signs = torch.tensor([[1.0], [1], [-1], [-1], [-1], [0]])
    # Positive: (0 + 0.5) / 2. Negative: the two hardest of 0, 0.5 and 1.
    assert float(hinge_loss(margins, signs, 2)) == pytest.approx(0.25 + 0.75)
    assert float(hinge_loss(margins, torch.zeros_like(signs), 2)) == 0


def test_support_vector_machine_finds_the_widest_margin():
    x = np.array([[3.0, 0], [3, 1], [1, 0], [1, 1], [0, 5]])
    weight, bias = fit_svm(x, np.array([1.0, 1, -1, -1, -1]), 100.0)
    assert weight == pytest.approx([1, 0], abs=1e-2) and bias == pytest.approx(-2, abs=2e-2)


def test_hard_negatives_are_mined():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(3, 0.3, (5, 2)), rng.normal(-3, 1, (3000, 2)), [[1.5, 1.5]] * 3])
    y = np.array([1.0] * 5 + [-1] * 3003)
    weight, bias = fit_svm(x, y, 1.0)
    assert ((x @ weight + bias > 0) == (y > 0)).all(), "three rare negatives count although few are taken at first"


def test_ridge_regression():
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(200, 3)), rng.normal(size=(4, 3))
    expected = x @ true.T + [1, 2, 3, 4]
    weight, bias = fit_ridge(x, expected, 0.0)
    assert np.allclose(weight, true) and np.allclose(bias, [1, 2, 3, 4])
    assert (np.abs(fit_ridge(x, expected, 1e3)[0]) < np.abs(true)).all()
    assert not fit_ridge(x[:0], expected[:0], 1.0)[0].any()


def test_stages_two_and_three_of_the_paper():
    """With an untrained network's features: three colored squares are told apart by what was fitted."""
    torch.manual_seed(0)
    model = models.rcnn_lite0(num_classes=3, regressor={"ridge": 1.0}, svm={"cost": 1.0}).eval()
    image = torch.zeros(3, 64, 128) + 0.05 * torch.randn(3, 64, 128)
    boxes = [[8.0 + 40 * k, 16, 36 + 40 * k, 48] for k in range(3)]
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        image[k, int(y1) : int(y2), int(x1) : int(x2)] += 1.5
    batch, gt = ImageBatch.from_tensors([image]), target(boxes, [0, 1, 2])
    gt.image_size = (64, 128)
    model.fit([(batch, [gt])])
    from eachmask.structures import DecodeOptions

    with torch.inference_mode():
        (found,) = model.decode(model(batch), DecodeOptions(score_threshold=0.5))
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    assert (found.boxes[found.labels.argsort()] - torch.tensor(boxes)).abs().max() < 4
