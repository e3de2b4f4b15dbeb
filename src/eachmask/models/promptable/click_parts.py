"""What is not connected to a click is no part of the answer: places beside the object that look like it.

Shapes: R questions, K clicks, S the side of their windows' grids.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

NEIGHBORS = np.ones((3, 3), bool)
"""Corners connect too."""


def connected_to_clicks(
    probabilities: Tensor, windows: Tensor, points: Tensor, signs: Tensor, threshold: float
) -> Tensor:
    """The same probabilities, 0 in parts of the mask without a click on the object.

    A question stays as it is without such a click, and where no click lies in a part. What a twig hides is one click
    more; what it spares is clicks on everything that looks alike.

    Args:
        probabilities: (R, S, S), each spanning its window; windows: (R, 4) xyxy px.
        points: (R, K, 2) xy px; signs: (R, K) 1 on the object.
        threshold: of the mask.
    """
    maps = probabilities.float().cpu().numpy().copy()
    side = maps.shape[2]
    low, size = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    places = ((points - low) / size * side).floor().long()
    on = (signs == 1) & ((places >= 0) & (places < side)).all(2)
    for values, own, is_on in zip(maps, places.cpu().numpy(), on.cpu().numpy(), strict=True):
        parts, num = label(values >= threshold, NEIGHBORS)
        kept = np.unique(parts[own[is_on, 1], own[is_on, 0]])
        kept = kept[kept > 0]
        if num > 1 and len(kept):
            values[(parts > 0) & ~np.isin(parts, kept)] = 0
    return torch.from_numpy(maps).to(probabilities)
