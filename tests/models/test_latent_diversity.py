"""Several answers to one click, and the choice among them."""

from __future__ import annotations

import pytest
import torch

from eachmask import models
from eachmask.ops.click_maps import Clicks
from eachmask.structures import ImageBatch, Prompts


def test_answers_are_ranked_and_the_first_is_what_is_answered():
    torch.manual_seed(0)
    model = models.latent_diversity_lite0().eval()
    image = torch.randn(3, 64, 80)
    prompts = Prompts((64, 80), points=[[40, 30]])
    masks, chances = model.alternatives(image, prompts)
    assert masks.shape == (6, 64, 80) and float(chances.sum()) == pytest.approx(1) and (chances.diff() <= 0).all()
    with torch.inference_mode():
        assert torch.allclose(model.answer(image, prompts), masks[0], atol=1e-5)


def test_only_the_best_mask_learns_much(monkeypatch):
    model = models.latent_diversity_lite0(masks=3, others=0.0).eval()
    logits = torch.zeros(1, 3, 8, 8)
    logits[0, 1] = 2.0
    logits.requires_grad_()
    monkeypatch.setattr(model, "candidates", lambda *_: (logits, torch.zeros(1, 3)))
    monkeypatch.setattr(model, "simulate", lambda *_: (Clicks(torch.zeros(1, 0, 2), torch.zeros(1, 0)), None))
    monkeypatch.setattr(model, "lessons", lambda *_: (torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8)))
    losses = model.losses(model(ImageBatch.from_tensors([torch.zeros(3, 8, 8)])), [])
    losses["mask"].backward()
    moved = logits.grad.abs().sum((0, 2, 3)) > 0
    assert moved.tolist() == [False, True, False]
    assert float(losses["selector"]) == pytest.approx(0.1 * torch.log(torch.tensor(3.0)).item())
