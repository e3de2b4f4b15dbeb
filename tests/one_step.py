"""One step of learning, for tests in which a network learns a few images by heart."""

from __future__ import annotations

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
