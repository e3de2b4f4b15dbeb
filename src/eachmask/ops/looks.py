"""Several looks at one image, at other sizes or mirrored, joined to one result.

A small look sees large things whole, a large one finds small things. Our own; what others do is greedy suppression of
all looks' boxes (Detectron2's test-time augmentation) or the mean of boxes (Solovyev et al., Weighted Boxes Fusion,
arXiv 1910.13302), which have no masks to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eachmask.ops.nms import lower_repeats, matrix_nms
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops
from eachmask.structures.joined_masks import JoinedMasks

ALONE = 0.6
"""An object that no other look confirms keeps this share of its score."""
AGREED = 0.5
"""IoU from which another look's object is the same."""
WITNESS = 0.1
"""Score from which an object confirms another one, however few a user wants to see."""
SIGMA = 1.0
"""Of Matrix NMS among looks."""
REPEAT, PART = 0.5, 0.7
"""Of :func:`~eachmask.ops.nms.lower_repeats` among looks."""
COMPARED = 256
"""Longer side of the canvas on which masks are compared, px."""


def join_looks(looks: Sequence[Instances], least: float, most: int | None) -> Instances:
    """Objects of several looks, each of which is there once at a good score.

    A score becomes ``ALONE`` s + (1 - ``ALONE``) min(s, c), c the best of IoU times score of the same objects (of its
    class) in other looks. Then objects of different looks lower each other's scores by Matrix NMS and as repeats
    and parts; those of one look have met before. No score rises, and none depends on ``least``.

    Args:
        looks: in one image's pixels, with scores, those of :data:`WITNESS` and more among them.
        least: objects of less score are dropped.
        most: so many of the best are kept; None: all.

    Returns:
        the best first.

    >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    >>> def look(score):
    ...     return Instances((20, 20), box, labels=torch.tensor([0]), scores=torch.tensor([score]))
    >>> [round(score, 2) for score in join_looks([look(0.5), look(0.25)], 0, 9).scores.tolist()]
    [0.4, 0.05]
    >>> [round(score, 2) for score in join_looks([look(0.5), look(0.25)[:0]], 0, 9).scores.tolist()]
    [0.3]
    """
    with_masks = all(look.masks is not None for look in looks)
    found = Instances.cat([replace(look, masks=None) for look in looks])
    if with_masks:
        found.masks = JoinedMasks.of([look.masks for look in looks if look.masks is not None])
    assert found.scores is not None
    numbers = torch.cat([torch.full_like(look.labels, number) for number, look in enumerate(looks)])
    meet = (numbers[:, None] != numbers) & (found.labels[:, None] == found.labels)
    iou, areas = _compared(found)
    iou = iou * meet
    scores = found.scores
    same = (iou > AGREED) & (scores >= WITNESS)
    confirmed = torch.where(same, iou * scores, 0.0).amax(1) if len(found) else scores
    scores = ALONE * scores + (1 - ALONE) * torch.minimum(scores, confirmed)
    scores = matrix_nms(iou, scores, torch.zeros_like(numbers), SIGMA)
    scores = lower_repeats(iou, areas, scores, REPEAT, PART)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= least][:most]
    joined = found[order]
    joined.scores = scores[order]
    return joined


def _compared(found: Instances) -> tuple[Tensor, Tensor]:
    """(N, N) IoU and (N,) areas of masks on a small canvas, or of boxes where there are none."""
    if found.masks is None:
        return box_ops.iou(found.boxes, found.boxes), box_ops.area(found.boxes)
    height, width = found.image_size
    share = min(1.0, COMPARED / max(height, width))
    small = found.masks.resize((max(1, round(share * height)), max(1, round(share * width)))).to_rle()
    return torch.from_numpy(small.iou(small)).to(found.boxes), torch.from_numpy(small.area()).to(found.boxes)
