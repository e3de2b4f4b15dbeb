"""Optimizer, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from eachmask.training.recipe import Recipe

BACKBONES = ("encoder", "backbone")
POSITIONS = ("relative_position_bias_table", "cpb_mlp", "logit_scale")
"""Parts of the names of what Swin transformers never decay, though it is no vector (Liu et al., arXiv 2111.09883)."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with four groups: backbone or not, decayed or not (vectors are not: biases, normalization; and Swin's
    relative positions)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not any(part in name for part in POSITIONS)
            key = (name.removeprefix("detector.").split(".")[0] in BACKBONES, decayed)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "rate": recipe.backbone_rate if in_backbone else 1.0,
                "weight_decay": recipe.weight_decay if decayed else 0.0,
            }
            for (in_backbone, decayed), parameters in groups.items()
        ],
        lr=recipe.learning_rate,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    """A function of the step alone: linear warm-up, then half a cosine down to 1% (Loshchilov & Hutter 2017).

    With ``recipe.drop_at`` it falls tenfold at these shares of the run instead.
    """
    warm = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    progress = min(1.0, step / max(recipe.steps, 1))
    falling = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    if recipe.drop_at:
        falling = 0.1 ** sum(progress >= share for share in recipe.drop_at)
    rate = recipe.learning_rate * warm * falling
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    return rate


class MovingAverage:
    """Exponential moving average of parameters and buffers, as a model of its own.

    Early on the average is shorter (decay at most ``(1 + n) / (10 + n)``), so that it is of use from the first
    evaluation on.
    """

    def __init__(self, model: nn.Module, averaged: nn.Module, decay: float) -> None:
        self.model = averaged.requires_grad_(False).eval()
        self.model.load_state_dict(model.state_dict())
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards model; step counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - decay)
            else:
                value.copy_(theirs[name])
