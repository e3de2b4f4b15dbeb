"""Panoptic PNGs: COCO's, the id of each pixel's segment as R + 256 G + 256² B (Kirillov et al., CVPR 2019),
with its list; and Cityscapes' instanceIds of 16 bits (Cordts et al., arXiv 1604.01685)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.files.png import png
from eachmask.structures import PanopticMap, UserError

MAX_ID = 256**3 - 1
THINGS_PER_CLASS = 1000
"""Cityscapes writes a thing as this times the class plus its number, at most so many of a class."""


def encode_ids(ids: NDArray[np.integer]) -> bytes:
    """(H, W) ids from 0 to 2^24 - 1 -> a PNG file.

    Raises:
        ValueError: an id is outside.
    """
    if ids.min(initial=0) < 0 or ids.max(initial=0) > MAX_ID:
        raise ValueError(f"ids of a panoptic PNG lie in 0..{MAX_ID}")
    values = ids.astype(np.uint32)
    return png(np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1).astype(np.uint8))


def decode_ids(colors: NDArray[np.integer]) -> NDArray[np.int32]:
    """(H, W, 3) RGB of such a file -> (H, W) ids.

    >>> decode_ids(np.array([[[7, 1, 0], [0, 0, 1]]], np.uint8)).tolist()
    [[263, 65536]]
    """
    red, green, blue = (colors[..., i].astype(np.int32) for i in range(3))
    result: NDArray[np.int32] = red + (green << 8) + (blue << 16)
    return result


def encode_instance_ids(seen: PanopticMap) -> bytes:
    """Cityscapes' PNG of 16 bits, see :func:`instance_ids`."""
    return png(instance_ids(seen))


def instance_ids(seen: PanopticMap) -> NDArray[np.uint16]:
    """(H, W) as Cityscapes: the category's id of stuff and crowds, id x 1000 + number of things, 0 of nothing.

    Raises:
        UserError: an id is above 64, or there are more than 1000 things of a class.
    """
    ids = seen.ids.cpu().numpy()
    result, counts = np.zeros(ids.shape, np.int64), dict[int, int]()
    for segment in sorted(seen.segments, key=lambda s: s.id):
        value = seen.categories[segment.label].id if seen.categories else segment.label + 1
        if seen.is_thing(segment) and not segment.crowd:
            number = counts.get(value, 0)
            counts[value] = number + 1
            value = value * THINGS_PER_CLASS + number
        result[ids == segment.id] = value
    if result.max(initial=0) > 65535 or max(counts.values(), default=0) > THINGS_PER_CLASS:
        raise UserError("Cityscapes' 16 bits hold category ids to 64 and 1000 objects of each: take COCO's PNG")
    return result.astype(np.uint16)


def segments_info(seen: PanopticMap) -> list[dict[str, Any]]:
    """COCO's list: id, category_id (of the data set, or label + 1), area, bbox (x y width height), iscrowd, score."""
    result = []
    ids = seen.ids.cpu().numpy()
    for segment in seen.segments:
        ys, xs = np.nonzero(ids == segment.id)
        x, y = int(xs.min()), int(ys.min())
        row = {
            "id": segment.id,
            "category_id": seen.categories[segment.label].id if seen.categories else segment.label + 1,
            "area": len(xs),
            "bbox": [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
            "iscrowd": int(segment.crowd),
        }
        result.append(row if segment.score is None else row | {"score": round(segment.score, 6)})
    return result
