"""Masks as one map of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Masks


def painted(masks: Masks) -> NDArray[np.int32]:
    """(H, W) label map, i + 1 for mask i; where masks overlap the smaller one is in front, so that none vanishes."""
    rle = masks.to_rle()
    order = np.argsort(rle.area(), kind="stable")
    number = np.concatenate([[0], order + 1]).astype(np.int32)
    return number[rle[order].to_label_map()]
