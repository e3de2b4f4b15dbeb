"""One step of learning, for tests of networks that learn."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def learn(
    model: Any, batch: Any, targets: list[Any], optimizer: torch.optim.Optimizer, seed: int, clip: float
) -> float:
    """The loss before it; with the same seed the same step."""
    model.train()
    torch.manual_seed(seed)
    total = sum(model.losses(model(batch), targets).values())
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return float(total.detach())


def check_learns_in_bf16(model: nn.Module, batch: Any, targets: list[Any], given: Any = None) -> None:
    """As ``--precision bf16`` computes: a finite loss, through which gradients flow; the model stays as it is."""
    learner = copy.deepcopy(model).train()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        raw = learner(batch) if given is None else learner(batch, given)
        losses = learner.losses(raw, targets)
    total = sum(value.float() for value in losses.values())
    total.backward()
    assert torch.isfinite(total)
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients) and any(g.any() for g in gradients)
