"""Losses of networks that say a set of masks with a class each: who means what is found by the Hungarian method.

Carion et al.: "End-to-End Object Detection with Transformers", ECCV 2020, arXiv 2005.12872; Cheng et al.: "Per-Pixel
Classification is Not All You Need" (MaskFormer), NeurIPS 2021, arXiv 2107.06278, section 3.3; Cheng et al.:
Mask2Former, CVPR 2022, arXiv 2112.01527, section 3.3 (points instead of pixels).

Shapes: Q queries, N targets, K classes, P pixels or points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.ops.losses import sigmoid_focal
from eachmask.ops.matching_losses import best_matching


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts, in the loss and in the matching alike."""

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1
    """Of the class "no object" in the cross-entropy, where most queries belong."""


def match_queries(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and targets of the cheapest one-to-one matching, two (min(Q, N),) int64, queries ascending.

    Args:
        costs: (Q, N); what is not finite counts as very dear.

    >>> queries, targets = match_queries(torch.tensor([[5.0, 1.0], [0.0, 2.0], [9.0, 9.0]]))
    >>> queries.tolist(), targets.tolist()
    ([0, 1], [1, 0])
    """
    return best_matching(-torch.nan_to_num(costs, nan=1e6, posinf=1e6, neginf=-1e6))


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """(Q, N): minus the probability of each target's class.

    Args:
        logits: (Q, K + 1), the last is "no object"; labels: (N,).

    >>> class_cost(torch.tensor([[9.0, -9.0, -9.0]]), torch.tensor([0, 1])).round().tolist()
    [[-1.0, -0.0]]
    """
    return -logits.float().softmax(-1)[:, labels]


def cross_entropy_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """(Q, N): mean binary cross-entropy of every mask (Q, P) against every target (N, P) in 0..1.

    >>> targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cross_entropy_cost(torch.tensor([[9.0, -9.0]]), targets).round().tolist()
    [[0.0, 9.0]]
    """
    logits, targets = logits.float(), targets.float()
    yes, no = F.softplus(-logits), F.softplus(logits)
    return (yes @ targets.T + no @ (1 - targets).T) / logits.shape[1]


def focal_cost(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(Q, N): the same with the focal loss.

    >>> focal_cost(torch.tensor([[9.0, -9.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).round().tolist()
    [[0.0, 4.0]]
    """
    logits, targets = logits.float(), targets.float()
    p = logits.sigmoid()
    yes = alpha * (1 - p) ** gamma * F.softplus(-logits)
    no = (1 - alpha) * p**gamma * F.softplus(logits)
    return (yes @ targets.T + no @ (1 - targets).T) / logits.shape[1]


def dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """(Q, N): 1 - (2 <p, y> + 1) / (|p| + |y| + 1).

    >>> costs = dice_cost(torch.tensor([[99.0, -99.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> [round(cost, 3) for cost in costs[0].tolist()]  # 1 - 3/3, 1 - 1/3
    [0.0, 0.667]
    """
    p, targets = logits.float().sigmoid(), targets.float()
    return 1 - (2 * (p @ targets.T) + 1) / (p.sum(-1)[:, None] + targets.sum(-1) + 1)


def dice_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The Dice losses of M matched pairs (M, P), added.

    >>> dice_sum(torch.tensor([[99.0, -99.0]]), torch.tensor([[1.0, 0.0]])).item()
    0.0
    """
    p = logits.float().sigmoid()
    return (1 - (2 * (p * targets).sum(-1) + 1) / (p.sum(-1) + targets.sum(-1) + 1)).sum()


def focal_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The focal losses (alpha 0.25, gamma 2) of M matched pairs (M, P), each the mean over P, added.

    >>> focal_sum(torch.tensor([[99.0, -99.0]]), torch.tensor([[1.0, 0.0]])).item()
    0.0
    """
    return sigmoid_focal(logits.float(), targets, alpha=0.25, gamma=2.0, reduction="none").mean(-1).sum()


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The binary cross-entropies of M matched pairs (M, P), each the mean over P, added.

    >>> round(cross_entropy_sum(torch.zeros(2, 4), torch.ones(2, 4)).item(), 4)  # 2 log 2
    1.3863
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(-1).sum()


def class_loss(logits: Tensor, matched: list[tuple[Tensor, Tensor]], labels: list[Tensor], no_object: float) -> Tensor:
    """Weighted mean cross-entropy of all queries, those that mean nothing against "no object".

    Args:
        logits: (B, Q, K + 1).
        matched: queries and targets of each image.
        labels: classes of each image's targets.
        no_object: weight of the last class.

    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])  # one class, "no object"; the first query means the object
    >>> matched = [(torch.tensor([0]), torch.tensor([0]))]
    >>> class_loss(logits, matched, [torch.tensor([0])], no_object=0.1).item() < 1e-3
    True
    """
    num_classes = logits.shape[-1] - 1
    gt_labels = torch.full(logits.shape[:2], num_classes, dtype=torch.int64, device=logits.device)
    for row, (queries, targets), own in zip(gt_labels, matched, labels, strict=True):
        row[queries] = own[targets]
    weight = torch.ones(num_classes + 1, device=logits.device)
    weight[-1] = no_object
    return F.cross_entropy(logits.float().transpose(1, 2), gt_labels, weight)
