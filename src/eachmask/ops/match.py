"""Which prediction stands for which object, and which of them to learn from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops

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

    >>> match(torch.tensor([[0.9, 0.45, 0.1], [0.2, 0.3, 0.2]]), high=0.5, low=0.4).tolist()
    [0, -2, -1]
    >>> match(torch.tensor([[0.9, 0.45, 0.1], [0.2, 0.3, 0.2]]), 0.5, 0.4, allow_low_quality=True).tolist()
    [0, 0, -1]
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
        favorite = (iou == highest) & (highest >= lowest)
        if moves:
            index = num_objects - 1 - favorite.flip(0).to(torch.uint8).argmax(dim=0)
        chosen = favorite.any(dim=0)
        matched[chosen] = index[chosen]
    return matched


def one_each(iou: Tensor) -> Iterator[tuple[int, int]]:
    """Every object a prediction of its own, those that fit best choosing first: pairs of object and prediction.

    Args:
        iou: (num_objects, num_predictions), not negative.

    >>> list(one_each(torch.tensor([[0.9, 0.8], [0.7, 0.1]])))
    [(0, 0), (1, 1)]
    """
    left = iou.clone()
    for _ in range(min(left.shape)):
        index = int(left.max(dim=1).values.argmax())
        prediction = int(left[index].argmax())
        yield index, prediction
        left[index], left[:, prediction] = -1, -1


def learnable(target: Instances, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of the objects to learn from, and of the crowd regions.

    A box without area is neither: no anchor overlaps it, and its logarithmic size would make the loss infinite.

    >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 8, 8], [2, 2, 2, 5]])
    >>> target = Instances((8, 8), boxes, crowd=torch.tensor([False, True, False]))
    >>> [index.tolist() for index in learnable(target, torch.device("cpu"))]  # the last one has no area
    [[0], [1]]
    """
    crowd = target.crowd.cpu()
    solid = (target.boxes[:, 2:] > target.boxes[:, :2]).all(dim=1).cpu()
    objects, crowds = (torch.nonzero(chosen).squeeze(1).to(device) for chosen in (solid & ~crowd, solid & crowd))
    return objects, crowds


def match_objects(
    boxes: Tensor,
    target: Instances,
    high: float,
    low: float,
    *,
    allow_low_quality_matches: float | None = None,
    moves: bool = False,
    usable: Tensor | None = None,
) -> Tensor:
    """:func:`match` of boxes (P, 4) with an image's objects; boxes mostly inside a crowd are ignored.

    Args:
        allow_low_quality_matches: an object's best boxes stand for it from this IoU on; None: only where they are good.
        moves: they then stand for this object even if they overlap another one more.
        usable: (P,) False for boxes that are ignored.

    Returns:
        (P,) int64: index of the object in the target, UNMATCHED or IGNORED.

    >>> target = Instances((8, 8), torch.tensor([[0.0, 0, 4, 4]]))
    >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [4, 4, 8, 8]])
    >>> match_objects(boxes, target, high=0.8, low=0.5).tolist()
    [0, -2, -1]
    """
    gt_boxes = target.boxes.to(boxes)
    single, crowd = learnable(target, boxes.device)
    iou = box_ops.iou(gt_boxes[single], boxes)
    lowest = allow_low_quality_matches
    if usable is not None:
        iou = torch.where(usable, iou, -1.0)
    matched = match(iou, high, low, lowest is not None, lowest or 0.0, moves)
    matched = torch.where(matched >= 0, single[matched.clamp(min=0)], matched) if len(single) else matched
    if len(crowd):
        covered = box_ops.coverage(boxes, gt_boxes[crowd]).max(dim=1).values > 0.5
        matched[covered & (matched == UNMATCHED)] = IGNORED
    if usable is not None:
        matched[~usable] = IGNORED
    return matched


def sample(
    matched: Tensor, num: int, positive_share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw a balanced batch: at most ``num * positive_share`` positives, negatives up to ``num``.

    Args:
        matched: (P,) from :func:`match`.

    Returns:
        two (P,) bool masks: the sampled positives and negatives.

    >>> positive, negative = sample(torch.tensor([0, 0, 0, UNMATCHED, UNMATCHED, IGNORED]), num=4, positive_share=0.5)
    >>> int(positive.sum()), int(negative.sum())
    (2, 2)
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
