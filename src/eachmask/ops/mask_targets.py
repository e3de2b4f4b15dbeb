"""True masks as a head on regions should draw them (He et al., Mask R-CNN, arXiv 1703.06870, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.ops.roi import roi_align
from eachmask.structures import Bitmaps, Masks


def mask_targets(masks: Masks, matched: Tensor, boxes: Tensor, size: int, aligned: bool = False) -> Tensor:
    """The true mask of each RoI as the head should draw it: RoIAlign of the bitmap (R, size, size), 0..1.

    Each object is looked at in a window of its own, so the cost does not grow with the image.

    Args:
        masks: of the image's objects.
        matched: (R,) which object each RoI stands for.
        boxes: (R, 4) px.
        aligned: as in :func:`~eachmask.ops.roi.roi_align`.

    >>> from eachmask.structures import RLE
    >>> mask = np.zeros((1, 8, 8), bool)
    >>> mask[0, :, :4] = True
    >>> mask_targets(RLE.from_bitmaps(mask), torch.tensor([0]), torch.tensor([[0.0, 0.0, 8.0, 8.0]]), 2).tolist()
    [[[0.875, 0.0], [0.875, 0.0]]]
    """
    result = boxes.new_zeros((len(boxes), size, size))
    for index in matched.unique().tolist():
        rows = torch.nonzero(matched == index).squeeze(1)
        crop, x, y = _window(masks[index].to_bitmaps())
        shifted = boxes[rows] - boxes.new_tensor([x, y, x, y])
        bitmap = torch.from_numpy(crop).to(boxes)[None, None]
        result[rows] = roi_align([bitmap], [shifted], size, [1], sampling=0, aligned=aligned)[:, 0]
    return result


def _window(one: Bitmaps) -> tuple[NDArray[np.bool_], int, int]:
    """The object's bitmap with background around it, up to the image's border, and its corner.

    RoIAlign repeats the border's pixels for points within one pixel outside: beside the object those must be
    background, at the border of the image they must be the object's own.
    """
    box = one.boxes()[0].astype(int)
    height, width = one.size
    x1, y1 = max(box[0] - 2, 0), max(box[1] - 2, 0)
    x2, y2 = min(box[2] + 2, width), min(box[3] + 2, height)
    return one.crop((x1, y1, x2, y2)).to_rle().decode()[0], int(x1), int(y1)
