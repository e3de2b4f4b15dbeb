"""Losses of networks that say one object after another: which object each step meant is found by matching.

Romera-Paredes, Torr: "Recurrent Instance Segmentation", ECCV 2016, arXiv 1511.08250 (coverage loss); Ren, Zemel:
"End-to-End Instance Segmentation with Recurrent Attention", CVPR 2017, arXiv 1605.09410 (matching and monotonic loss).

Shapes: T steps, N objects, (H, W) the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Matched(NamedTuple):
    """Terms of one image, and who was matched to whom."""

    overlap: Tensor  # scalar, minus the matched soft IoU
    score: Tensor  # scalar
    steps: Tensor  # (M,) int64
    objects: Tensor  # (M,) int64


def soft_iou(probabilities: Tensor, masks: Tensor) -> Tensor:
    """(T, N) ``<p, y> / (|p| + |y| - <p, y>)``; 0 where both are empty.

    Args:
        probabilities: (T, ...) in 0..1; masks: (N, ...) 0 or 1.

    >>> soft_iou(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [[0.5, 0.0]]
    """
    p, y = probabilities.flatten(1), masks.flatten(1)
    common = p @ y.T
    union = p.sum(1)[:, None] + y.sum(1) - common
    return common / torch.where(union == 0, torch.ones_like(union), union)


def best_matching(iou: Tensor) -> tuple[Tensor, Tensor]:
    """Steps and objects of the one-to-one matching with the largest sum (Hungarian method).

    Args:
        iou: (T, N).

    Returns:
        two (min(T, N),) int64, steps ascending.

    >>> steps, objects = best_matching(torch.tensor([[0.9, 0.8], [0.7, 0.1]]))
    >>> steps.tolist(), objects.tolist()  # 0.8 + 0.7 is more than 0.9 + 0.1
    ([0, 1], [1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(iou.detach().cpu().double().numpy(), maximize=True)
    return torch.from_numpy(rows).to(iou.device), torch.from_numpy(columns).to(iou.device)


def coverage_loss(iou: Tensor, score_logits: Tensor) -> Matched:
    """Minus the sum of the matched IoU; scores are to be 1 in the first N steps and 0 after them, summed.

    Args:
        iou: (T, N), :func:`soft_iou`; score_logits: (T,).

    >>> found = coverage_loss(torch.tensor([[1.0], [0.0]]), torch.tensor([9.0, -9.0]))
    >>> found.overlap.item(), found.score.item() < 1e-3
    (-1.0, True)
    """
    steps, objects = best_matching(iou)
    targets = (torch.arange(len(score_logits), device=iou.device) < iou.shape[1]).to(score_logits.dtype)
    score = F.binary_cross_entropy_with_logits(score_logits, targets, reduction="sum")
    return Matched(-iou[steps, objects].sum(), score, steps, objects)


def matching_loss(iou: Tensor, scores: Tensor) -> Matched:
    """Minus the matched IoU per object; scores of matched steps are to be 1, of others 0, and never to rise.

    A matched step is judged by the least score up to it, an unmatched one by the largest from it on; mean over steps.

    Args:
        iou: (T, N), :func:`soft_iou`; scores: (T,) probabilities.

    >>> found = matching_loss(torch.tensor([[1.0], [0.0]]), torch.tensor([0.999, 0.001]))
    >>> found.overlap.item(), found.score.item() < 2e-3
    (-1.0, True)
    """
    steps, objects = best_matching(iou)
    matched = torch.zeros_like(scores)
    matched[steps] = 1
    eps = torch.finfo(scores.dtype).eps
    least = scores.cummin(0).values.clamp(min=eps)
    most = scores.flip(0).cummax(0).values.flip(0).clamp(max=1 - eps)
    score = -(matched * least.log() + (1 - matched) * (1 - most).log()).mean()
    return Matched(-iou[steps, objects].sum() / max(iou.shape[1], 1), score, steps, objects)
