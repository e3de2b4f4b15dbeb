"""What only objects need when an image is changed: boxes that fit again, what is too little to be learnt from, names
that a mirror swaps, and the joining of several images' objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import TypeVar

from eachmask.structures import Bitmaps, Instances
from eachmask.structures.spatial import Spatial

S = TypeVar("S", bound=Spatial, default=Instances)
"""Whatever lies on an image."""
MIN_AREA = 16
"""Objects of which fewer pixels are left are not learnt from; they become ignore regions."""


def refined(targets: S) -> S:
    """Objects with tight boxes again; those of which next to nothing is left are ignored from now on."""
    if not isinstance(targets, Instances) or targets.masks is None or not len(targets):
        return targets
    area = torch.from_numpy(targets.masks.area())
    return cast(S, replace(targets.with_boxes_from_masks(), crowd=targets.crowd | (area < MIN_AREA)))


def mirrored(targets: S, keypoint_pairs: Sequence[tuple[int, int]] | None) -> S:
    """Left to right; keypoints that change their names in a mirror do so."""
    return cast(S, targets.flip(keypoint_pairs)) if isinstance(targets, Instances) else targets.flip()


def beneath(targets: Instances, covered: NDArray[np.bool_]) -> Instances:
    """What can still be seen of objects below the covered pixels (H, W); what is nearly gone is dropped."""
    bitmaps = targets.gt_masks.to_bitmaps()
    crops = []
    for crop, (x, y) in zip(bitmaps.crops, bitmaps.origins.tolist(), strict=True):
        height, width = crop.shape
        crops.append(crop & ~covered[y : y + height, x : x + width])
    masks = Bitmaps(crops, bitmaps.origins, bitmaps.size).to_rle()
    seen = torch.from_numpy(masks.area() >= MIN_AREA)
    return replace(targets, masks=masks)[seen].with_boxes_from_masks()


def joined(parts: Sequence[Instances]) -> Instances:
    """Objects of several samples on one canvas; keypoints are left behind, which not all may have."""
    return Instances.cat([replace(part, keypoints=None) for part in parts])
