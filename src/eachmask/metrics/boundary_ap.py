"""Boundary IoU and boundary AP (Cheng, Girshick, Dollar, Berg, Kirillov: CVPR 2021, arXiv 2103.16562).

Mask IoU forgives a large object a sloppy outline. Here two masks are compared also by the bands along their outlines:
the pixels of a mask within ``d`` of its border, d = 2% of the image's diagonal. As published, the overlap of a
pair is the *smaller* of its mask and band IoU (crowd regions: the mask's alone), and the rest is COCO's AP.

The band is the mask minus its erosion by d steps of a 3 x 3 square, everything outside the image being background:
what a (2d + 1) x (2d + 1) square does at once. It is taken on each mask's own box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.average_precision import summary
from eachmask.metrics.coco_matches import Matches, mask_overlap, match
from eachmask.structures import RLE, Bitmaps, Instances, Masks

DILATION = 0.02
"""Width of the band as a share of the image's diagonal; Cityscapes' choice is 0.005."""


def band_width(size: tuple[int, int], dilation: float = DILATION) -> int:
    """Pixels, at least 1; size is (height, width)."""
    return max(1, int(round(dilation * float(np.hypot(*size)))))


def boundary_band(masks: Masks, dilation: float = DILATION) -> RLE:
    """Of each mask the pixels whose Chebyshev distance to what is not mask is at most d."""
    bitmaps = masks.to_bitmaps()
    width = band_width(bitmaps.size, dilation)
    crops = [_band(crop, width) for crop in bitmaps.crops]
    return Bitmaps(crops, bitmaps.origins, bitmaps.size).to_rle()


def _band(crop: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Everything outside the crop is background, so the crop's own margin need not be kept.

    A square is a row and a column: two passes, whose cost hardly grows with the width.
    """
    mask: NDArray[np.bool_] = np.array(crop, bool)
    if min(mask.shape) <= 2 * width:  # no pixel is further away from the crop's rim than that
        return mask
    eroded: NDArray[Any] = np.ascontiguousarray(mask, np.uint8)
    for shape in ((2 * width + 1, 1), (1, 2 * width + 1)):
        kernel = np.ones(shape, np.uint8)
        eroded = cv2.erode(eroded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    mask[eroded > 0] = False
    return mask


def boundary_iou(masks: Masks, others: Masks, dilation: float = DILATION) -> NDArray[np.float64]:
    """(N, M) IoU of the bands alone, 0..1."""
    return boundary_band(masks, dilation).iou(boundary_band(others, dilation))


def boundary_overlap(predictions: Instances, targets: Instances) -> NDArray[np.float64]:
    """(D, G) min(mask IoU, boundary IoU); over crowd regions the share of the prediction that lies in them."""
    overlap = mask_overlap(predictions, targets)
    # Other pairs fail at the smallest threshold anyway: their bands need not be drawn.
    same = (predictions.labels[:, None] == targets.labels) & ~targets.crowd
    close = (overlap >= 0.5) & same.cpu().numpy()
    rows, columns = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
    if len(rows):
        assert predictions.masks is not None and targets.masks is not None
        bands = boundary_iou(predictions.masks[rows], targets.masks[columns])
        place = np.ix_(rows, columns)
        overlap[place] = np.minimum(overlap[place], bands)
    return overlap


def boundary_matches(predictions: Sequence[Instances], targets: Sequence[Instances], num_classes: int) -> Matches:
    """COCO's matching with the boundary overlap."""
    return match(predictions, targets, num_classes, overlap=boundary_overlap)


def boundary_ap(
    predictions: Sequence[Instances], targets: Sequence[Instances], num_classes: int, matches: Matches | None = None
) -> dict[str, float]:
    """The twelve numbers, named as :func:`~eachmask.metrics.coco_ap.coco_ap` names them; sizes are of whole masks.

    Args:
        matches: what :func:`boundary_matches` says of the same values, where that is known.

    Raises:
        ValueError: the two lists differ in length.
    """
    return summary(boundary_matches(predictions, targets, num_classes) if matches is None else matches)
