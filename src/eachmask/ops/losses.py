"""Losses that more than one paper uses. Pure functions of logits and targets; each names its formula's source."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures import boxes as box_ops

Reduction = Literal["none", "mean", "sum"]


def reduce(values: Tensor, reduction: Reduction, weight: Tensor | None = None) -> Tensor:
    """Weighted values, their sum, or their sum over the weight (0, not NaN, where there is none).

    >>> reduce(torch.tensor([1.0, 3.0]), "mean", weight=torch.tensor([1.0, 0.0])).item()
    1.0
    """
    if weight is not None:
        values = values * weight
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    total = values.numel() if weight is None else weight.expand_as(values).sum().clamp(min=1e-12)
    return values.sum() / total if values.numel() else values.sum()


def sigmoid_focal(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "sum",
    weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy that easy examples hardly enter (Lin et al., RetinaNet, arXiv 1708.02002, eq. 5).

    Args:
        logits: any shape; targets: the same, 0 or 1.
        alpha: weight of positives (1 - alpha of negatives); negative leaves both alone.
        gamma: 0 is plain cross-entropy.

    >>> logits, targets = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])
    >>> [round(loss, 4) for loss in sigmoid_focal(logits, targets, reduction="none").tolist()]
    [0.0433, 0.0]
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    wrong = probability * (1 - targets) + (1 - probability) * targets  # 1 - p_t
    loss = cross_entropy * wrong**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduce(loss, reduction, weight)


def quality_focal(
    logits: Tensor, quality: Tensor, beta: float = 2.0, reduction: Reduction = "sum", weight: Tensor | None = None
) -> Tensor:
    """Focal loss for soft targets: the score shall be the box's IoU (Li et al., GFL, arXiv 2006.04388, eq. 3).

    Args:
        logits: any shape; quality: the same, 0..1.

    >>> quality_focal(torch.tensor([0.0]), torch.tensor([0.5])).item()  # 0.5 was asked for
    0.0
    """
    distance = (quality - logits.sigmoid()).abs() ** beta
    return reduce(F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * distance, reduction, weight)


def dice(
    probabilities: Tensor,
    targets: Tensor,
    form: Literal["squared", "plain"] = "squared",
    eps: float = 1e-5,
    weight: Tensor | None = None,
) -> Tensor:
    """1 - Dice coefficient of each mask: (N, ...) -> (N,).

    Args:
        probabilities, targets: (N, ...) in 0..1.
        form: ``squared`` has squares in the denominator (Milletari et al., V-Net, arXiv 1606.04797; SOLO); ``plain``
            has sums (Mask2Former, with eps = 1).
        eps: added to numerator (plain form) and denominator.
        weight: (N, ...) of each pixel; 0 ignores it.

    >>> dice(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]), eps=0).item()
    0.0
    """
    p, t = probabilities.flatten(1), targets.flatten(1)
    if weight is not None:
        p, t = p * weight.flatten(1), t * weight.flatten(1)
    common = (p * t).sum(1)
    if form == "squared":
        return 1 - 2 * common / ((p * p).sum(1) + (t * t).sum(1) + eps)
    return 1 - (2 * common + eps) / (p.sum(1) + t.sum(1) + eps)


def smooth_l1(
    predicted: Tensor, targets: Tensor, beta: float = 1.0, reduction: Reduction = "sum", weight: Tensor | None = None
) -> Tensor:
    """Quadratic within beta of the target, linear beyond (Girshick, Fast R-CNN, eq. 3, has beta = 1).

    >>> smooth_l1(torch.tensor([0.5, 3.0]), torch.zeros(2), reduction="none").tolist()
    [0.125, 2.5]
    """
    if beta == 0:
        return reduce((predicted - targets).abs(), reduction, weight)
    return reduce(F.smooth_l1_loss(predicted, targets, beta=beta, reduction="none"), reduction, weight)


def giou(predicted: Tensor, targets: Tensor) -> Tensor:
    """1 - generalized IoU of box pairs: (N, 4), (N, 4) -> (N,) in 0..2 (Rezatofighi et al., CVPR 2019).

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    >>> others = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 0.0, 12.0, 4.0]])
    >>> [round(loss, 3) for loss in giou(boxes, others).tolist()]
    [0.0, 1.333]
    """
    low = torch.maximum(predicted[:, :2], targets[:, :2])
    high = torch.minimum(predicted[:, 2:], targets[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = box_ops.area(predicted) + box_ops.area(targets) - common
    hull = (torch.maximum(predicted[:, 2:], targets[:, 2:]) - torch.minimum(predicted[:, :2], targets[:, :2])).prod(-1)
    eps = torch.finfo(common.dtype).eps
    return 1 - (common / union.clamp(min=eps) - (hull - union) / hull.clamp(min=eps))


def normalized_focal(
    logits: Tensor, targets: Tensor, alpha: float = 0.5, gamma: float = 2.0, eps: float = 1e-12
) -> Tensor:
    """Focal loss whose weights sum to the number of pixels, so that it does not fade as the answer gets better.

    Sofiiuk, Barinova, Konushin: "AdaptIS", arXiv 1909.07829, eq. 5: with b = (1 - p_t)^gamma of each pixel the loss is
    -alpha_t n b / sum(b) log(p_t), and no gradient goes through the normalization.

    Args:
        logits, targets: (B, H, W); targets are 1, 0, or -1 where a pixel does not count.

    Returns:
        a scalar, the mean over the pixels that count of each image, and over images.

    >>> targets = torch.tensor([[[1.0, 0.0, -1.0]]])
    >>> good, bad = (normalized_focal(torch.tensor([[[x, -x, 0.0]]]), targets).item() for x in (4.0, -4.0))
    >>> good < 0.02 < 2 < bad
    True
    """
    counts = (targets >= 0).to(logits)
    positive = targets > 0.5
    log_p = F.logsigmoid(torch.where(positive, logits, -logits))
    weight = (1 - log_p.detach().exp()) ** gamma * counts
    num = counts.sum((-2, -1))
    scale = num / (weight.sum((-2, -1)) + eps)
    share = torch.where(positive, alpha, 1 - alpha)
    focal = (1 - log_p.exp()) ** gamma * counts * scale[:, None, None]
    return (-(share * focal * log_p).sum((-2, -1)) / num.clamp(min=1)).mean()


def balanced_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which object and background weigh the same, however large they are.

    Maninis et al., DEXTR, arXiv 1711.09081, section 3.2 (after Xie & Tu, HED, arXiv 1504.06375, eq. 2): pixels of the
    object are weighted by the background's share of the image, and the other way round.

    Args:
        logits, targets: (B, H, W); targets are 1, 0, or -1 where a pixel does not count.

    Returns:
        a scalar, the mean over the pixels that count.

    >>> targets = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    >>> round(balanced_cross_entropy(torch.zeros(1, 1, 4), targets).item(), 4)  # log 2 * (3/4 + 3 * 1/4) / 4
    0.2599
    """
    counts, positive = (targets >= 0).to(logits), (targets == 1).to(logits)
    num = counts.sum((-2, -1), keepdim=True).clamp(min=1)
    share = positive.sum((-2, -1), keepdim=True) / num
    weight = torch.where(positive > 0, 1 - share, share) * counts
    loss = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    return (loss * weight).sum() / counts.sum().clamp(min=1)
