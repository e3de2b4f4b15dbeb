"""Losses of label maps: of logits (B, K, H, W) and labels (B, H, W), in which -1 is a pixel that does not count.

What a batch leaves without a single pixel gives 0, and not NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    gamma: float = 0.0,
    hard: float = 1.0,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy of the pixels that count, their mean.

    Args:
        logits: (B, K, H, W); labels: (B, H, W), 0..K-1 or -1.
        class_weights: (K,), of each pixel by its class; the mean is over the weights, as torch has it.
        gamma: above 0 pixels that are right hardly enter: the focal loss (Lin et al., arXiv 1708.02002, eq. 4).
        hard: share of the pixels that enter, those of the highest loss (Wu et al., arXiv 1605.06885, section 3.2); an
            ignored pixel counts in the ranking as one without loss.
        pixel_weights: (B, H, W), for example of :func:`border_weights`; they multiply the loss and do not enter the
            mean's denominator.

    >>> cross_entropy(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, -1]]])).item()  # log 2
    0.6931471824645996
    """
    counts = labels != IGNORED
    known = labels.clamp(min=0)
    loss = F.cross_entropy(logits, known, reduction="none")
    if gamma:
        loss = loss * (1 - (-loss).exp()) ** gamma
    weight = counts.to(loss)
    if class_weights is not None:
        weight = weight * class_weights.to(loss)[known]
    loss = loss * weight
    if pixel_weights is not None:
        loss = loss * pixel_weights
    if hard < 1:
        kept = loss.flatten().topk(max(1, int(hard * loss.numel())))
        loss, weight = kept.values, weight.flatten()[kept.indices]
    return loss.sum() / weight.sum().clamp(min=1e-6)


def soft_dice(logits: Tensor, labels: Tensor, eps: float = 1.0) -> Tensor:
    """1 - Dice coefficient, averaged over the classes that the batch has (Milletari et al., arXiv 1606.04797).

    Args:
        logits: (B, K, H, W); labels: (B, H, W), 0..K-1 or -1.
        eps: added to numerator and denominator.

    >>> sure = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])  # (1, 2, 1, 2)
    >>> soft_dice(sure, torch.tensor([[[0, 1]]])).item() < 1e-3
    True
    """
    probabilities, inside = _probabilities(logits, labels)
    common, total = (probabilities * inside).sum(1), (probabilities + inside).sum(1)
    present = inside.sum(1) > 0
    loss = 1 - (2 * common + eps) / (total + eps)
    return (loss * present).sum() / present.sum().clamp(min=1)


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, averaged over the classes that the batch has (Berman et al., arXiv 1705.08790).

    Where probabilities are 0 and 1 it is 1 - IoU itself.

    Args:
        logits: (B, K, H, W); labels: (B, H, W), 0..K-1 or -1.

    >>> sure = torch.tensor([[[[99.0, 99.0]], [[-99.0, -99.0]]]])  # class 0 twice
    >>> lovasz_softmax(sure, torch.tensor([[[0, 1]]])).item()  # the mean of 1 - 1/2 and 1 - 0
    0.75
    """
    probabilities, inside = _probabilities(logits, labels)
    losses = []
    for k in torch.nonzero(inside.sum(1) > 0)[:, 0].tolist():
        errors = (inside[k] - probabilities[k]).abs()
        errors, order = errors.sort(descending=True)
        losses.append(errors @ _jaccard_steps(inside[k][order]))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def border_weights(objects: Tensor, strength: float = 10.0, sigma: float = 5.0) -> Tensor:
    """How much the gaps between objects that nearly touch count (Ronneberger et al., U-Net, arXiv 1505.04597, eq. 2).

    strength exp(-(d1 + d2)^2 / (2 sigma^2)) of each pixel outside of objects, with the distances to the nearest and to
    the second nearest object, px; 0 inside of them.

    Args:
        objects: (H, W) whole numbers, 0 outside and another number for each object.

    Returns:
        (H, W) float32; 0 everywhere with fewer than two objects.

    >>> weights = border_weights(torch.tensor([[1, 0, 0, 2]]), strength=10.0, sigma=3.0)
    >>> [round(weight, 2) for weight in weights[0].tolist()]
    [0.0, 6.07, 6.07, 0.0]
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    numbers = objects.cpu().numpy()
    height, width = numbers.shape
    reach = int(6 * sigma) + 1  # beyond it a weight is below exp(-18)
    nearest, second = (np.full(numbers.shape, np.inf, np.float32) for _ in range(2))
    for number, box in enumerate(find_objects(numbers), start=1):
        if box is None:
            continue
        top, left = (max(0, side.start - reach) for side in box)
        window = slice(top, min(height, box[0].stop + reach)), slice(left, min(width, box[1].stop + reach))
        distance = distance_transform_edt(numbers[window] != number).astype(np.float32)
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    weights = strength * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return torch.from_numpy(np.where(numbers > 0, 0, weights).astype(np.float32))


def _probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(K, N) probabilities and one-hot labels of the pixels that count."""
    counts = labels != IGNORED
    probabilities = logits.softmax(1).movedim(1, 0)[:, counts]
    return probabilities, F.one_hot(labels[counts], logits.shape[1]).T.to(probabilities)


def _jaccard_steps(inside: Tensor) -> Tensor:
    """(N,): by how much 1 - IoU grows with each further error, in the order given."""
    total = inside.sum()
    common, union = total - inside.cumsum(0), total + (1 - inside).cumsum(0)
    jaccard = 1 - common / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
