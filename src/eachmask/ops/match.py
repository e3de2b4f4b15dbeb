"""Which prediction stands for which object, and which of them to learn from."""

from __future__ import annotations

import torch
from torch import Tensor

UNMATCHED = -1
"""Background: no object is near."""
IGNORED = -2
"""Neither an object nor background: not learnt from."""


def match(
    iou: Tensor,
    high: float,
    low: float,
    allow_low_quality: bool = False,
    lowest: float = 0.0,
    moves: bool = False,
) -> Tensor:
    """The best object of each prediction, where it is good enough.

    Args:
        iou: (num_objects, num_predictions).
        high: from here on matched; below ``low`` UNMATCHED; between them IGNORED.
        allow_low_quality: every object also gets the predictions that overlap it most, ties included, however
            little that is (Ren et al., section 3.1.2, condition i) ...
        lowest: ... provided that it is this much.
        moves: they then stand for that object (the last of several) even if they overlap another one more.

    Returns:
        (num_predictions,) int64: index of the object, UNMATCHED or IGNORED.
    """
    num_objects, num_predictions = iou.shape
    if num_objects == 0:
        return torch.full((num_predictions,), UNMATCHED, dtype=torch.int64, device=iou.device)
    best, index = iou.max(dim=0)
    matched = index.clone()
    matched[best < low] = UNMATCHED
    matched[(best >= low) & (best < high)] = IGNORED
    if allow_low_quality:
        highest = iou.max(dim=1, keepdim=True).values
        favourite = (iou == highest) & (highest >= lowest)
        if moves:
            index = num_objects - 1 - favourite.flip(0).to(torch.uint8).argmax(dim=0)
        chosen = favourite.any(dim=0)
        matched[chosen] = index[chosen]
    return matched


def sample(
    matched: Tensor, num: int, positive_share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw a balanced batch: at most ``num * positive_share`` positives, negatives up to ``num``.

    Args:
        matched: (P,) from :func:`match`.

    Returns:
        two (P,) bool masks: the drawn positives and negatives.
    """
    positive = torch.nonzero(matched >= 0).squeeze(1)
    negative = torch.nonzero(matched == UNMATCHED).squeeze(1)
    num_positive = min(len(positive), int(num * positive_share))
    num_negative = min(len(negative), num - num_positive)
    chosen = []
    for candidates, count in ((positive, num_positive), (negative, num_negative)):
        order = torch.randperm(len(candidates), generator=generator, device=candidates.device)[:count]
        mask = torch.zeros(len(matched), dtype=torch.bool, device=matched.device)
        mask[candidates[order]] = True
        chosen.append(mask)
    return chosen[0], chosen[1]
