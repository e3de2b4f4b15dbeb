"""Whether two predictors say the same, whatever they predict.

A pixel whose probability lies within ``ROUNDING`` of the threshold falls to either side by the last bits of a sum: of a
mask of 60 pixels two of them are 3 %. Such pixels are left out of the IoU, where they are few; the probabilities that
they come from are compared as numbers instead. So are boxes, and grids of probabilities are then pasted into the same
ones: of an object five pixels wide, 0.002 px move a column. Objects whose scores are equal but for rounding may come in
another order. Models that look again at the most doubtful points choose between points of equal doubt by rounding too.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from eachmask.structures import Instances, Masks, Matte, PanopticMap, RoIMasks, SemanticMap
from eachmask.structures.logit_masks import LogitMasks

ROUNDING = 1e-3
"""Of scores and probabilities."""
FEW = 0.1
"""Of a mask's pixels may be undecided."""
FEWEST = 1e-4
"""Of all probabilities may be others."""


def check(a: Any, b: Any) -> None:
    """Boxes within 0.1 px, scores within 1e-3, masks of an IoU above 0.99; of 1,000 pixels of a map 998; mattes."""
    assert type(a) is type(b)
    if isinstance(a, Instances):
        _check_instances(a, b)
    elif isinstance(a, SemanticMap):
        assert (a.labels == b.labels).float().mean() > 0.998
    elif isinstance(a, PanopticMap):
        assert len(a.segments) == len(b.segments)
        assert (a.ids == b.ids).float().mean() > 0.998
    else:
        assert isinstance(a, Matte)
        torch.testing.assert_close(a.alpha, b.alpha, atol=5e-3, rtol=0)


def _check_instances(a: Instances, b: Instances) -> None:
    assert len(a) == len(b)
    b = _in_order_of(a, b)
    torch.testing.assert_close(a.boxes, b.boxes, atol=0.1, rtol=0)
    if a.scores is not None:
        torch.testing.assert_close(a.scores, b.scores, atol=ROUNDING, rtol=0)
    if a.masks is not None and b.masks is not None and len(a):
        _check_masks(a.masks, b.masks)


def _in_order_of(a: Instances, b: Instances) -> Instances:
    """Objects with the masks and boxes of others of ``a`` in their places; whether their scores allow it is seen
    afterwards."""
    if not len(a):
        return b
    apart = torch.cdist(a.boxes, b.boxes, p=1).numpy()  # of all corners, px
    if a.masks is not None and b.masks is not None:
        iou, shown = np.asarray(a.masks.iou(b.masks)), a.masks.area() > 0
        apart += shown[:, None] * (1 - iou) * sum(a.image_size)
    moved, order = np.flatnonzero(apart.diagonal() > 0.4), np.arange(len(a))
    order[moved] = moved[linear_sum_assignment(apart[np.ix_(moved, moved)])[1]]
    return b[order]


def _check_masks(a: Masks, b: Masks) -> None:
    if isinstance(a, RoIMasks | LogitMasks):
        apart = (_probabilities(a) - _probabilities(b)).abs() > ROUNDING
        assert apart.float().mean() <= FEWEST, f"{int(apart.sum())} of {apart.numel()} probabilities differ"
    if isinstance(a, RoIMasks) and isinstance(b, RoIMasks):
        torch.testing.assert_close(a.roi_boxes, b.roi_boxes, atol=0.1, rtol=0)
        b = RoIMasks(b.probabilities, a.roi_boxes, b.size, b.threshold, b.paste)
    iou = np.asarray(a.iou(b)).diagonal()
    for i in np.flatnonzero((a.area() > 0) & (iou <= 0.99)):
        assert decided_iou(a[[int(i)]], b[[int(i)]]) > 0.99, f"object {i}: IoU {iou[i]:.3f}"


def _probabilities(masks: Any) -> torch.Tensor:
    found: torch.Tensor = masks.probabilities if isinstance(masks, RoIMasks) else masks.logits.sigmoid()
    return found


def decided_iou(a: Masks, b: Masks) -> float:
    """Of one object, without the pixels that are undecided in ``a``; 0 where these are many."""
    inside, possible, other = (x.to_rle().decode()[0] for x in (_at(a, ROUNDING), _at(a, -ROUNDING), b))
    if (possible & ~inside).sum() > FEW * possible.sum():
        return 0.0
    return float((inside & other).sum() / max(1, inside.sum() + (other & ~possible).sum()))


def _at(masks: Any, shift: float) -> Masks:
    """The masks at another threshold, where they have one."""
    moved = copy(masks)
    if hasattr(moved, "threshold"):
        moved.threshold, moved._rle = moved.threshold + shift, None
    return moved  # type: ignore[no-any-return]
