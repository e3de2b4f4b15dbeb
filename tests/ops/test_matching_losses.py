from __future__ import annotations

import pytest
import torch

from eachmask.ops.matching_losses import best_matching, coverage_loss, matching_loss, soft_iou

IOU = torch.tensor(
    [[0.9, 0, 0, 0.08], [0.12, 0.14, 0, 0.87], [0, 0.68, 0.1, 0.7], [0, 0.1, 0.8, 0], [0, 0, 0.1, 0]],
    dtype=torch.float64,
)
SCORES = torch.tensor([0.93, 0.73, 0.86, 0.63, 0.56], dtype=torch.float64)


def test_five_steps_and_four_objects():
    """The best matching leaves the fifth step out, and takes 0.68 for the third, for 0.7 would cost 0.87."""
    steps, objects = best_matching(IOU)
    assert steps.tolist() == [0, 1, 2, 3] and objects.tolist() == [0, 3, 1, 2]
    loss = coverage_loss(IOU, torch.logit(SCORES))
    assert float(loss.overlap) == pytest.approx(-3.25)
    expected = -(SCORES[:4].log().sum() + (1 - SCORES[4]).log())
    assert float(loss.score) == pytest.approx(float(expected))


def test_scores_that_rise_are_punished():
    falling = matching_loss(IOU, torch.tensor([0.9, 0.9, 0.8, 0.8, 0.1], dtype=torch.float64))
    rising = matching_loss(IOU, torch.tensor([0.8, 0.9, 0.9, 0.8, 0.1], dtype=torch.float64))
    assert float(falling.overlap) == pytest.approx(-3.25 / 4) and float(rising.score) > float(falling.score)


def test_soft_iou_of_whole_masks_is_iou():
    a = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    assert soft_iou(a, torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])).tolist() == [[pytest.approx(1 / 3), 0], [0, 0]]


def test_no_objects():
    logits = torch.zeros(3, requires_grad=True)
    for loss in (coverage_loss(torch.zeros(3, 0), logits), matching_loss(torch.zeros(3, 0), logits.sigmoid())):
        (loss.overlap + loss.score).backward()
        assert torch.isfinite(logits.grad).all() and float(loss.overlap) == 0
