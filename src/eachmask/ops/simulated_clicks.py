"""Clicks as a user might set them, for training: at random at first, then where the answer is wrong.

Sofiiuk, Petrov, Konushin, arXiv 2102.06583, section 3.2: clicks are drawn from the inner half of the region in question
(its pixels that lie deepest), not from all of it, because users click well inside of what they mean.

Shapes: B images of H x W px; targets are 1 on the object, 0 beside it and -1 where nothing is known.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.ops.click_maps import Clicks

NEAR = 0.15
"""Clicks beside an object lie within this share of the image's longer side of it."""


def first_clicks(targets: Tensor, most: int = 3) -> Clicks:
    """1 to ``most`` random clicks on each object (B, H, W), and 0 to ``most`` beside it, near.

    >>> target = torch.zeros(1, 16, 16)
    >>> target[0, 4:12, 4:12] = 1
    >>> clicks = first_clicks(target)
    >>> clicks.places.shape[-1], int(clicks.signs[0, 0])  # the first one is on the object
    (2, 1)
    """
    rows = [_random_clicks(target, most) for target in targets.cpu().numpy()]
    return _padded(rows, targets)


def next_click(found: Tensor, targets: Tensor, clicks: Clicks) -> Clicks:
    """One more click for each image, in the larger of what is missing and what is too much; none where all is right.

    Args:
        found: (B, H, W) bool, the network's answer.

    >>> target = torch.zeros(1, 16, 16)
    >>> target[0, 4:12, 4:12] = 1
    >>> nothing = Clicks(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int64))
    >>> next_click(target < 0, target, nothing).signs.tolist()  # the object is missing
    [[1]]
    """
    rows = []
    for answer, target in zip(found.cpu().numpy(), targets.cpu().numpy(), strict=True):
        missing, surplus = _depth((target == 1) & ~answer), _depth((target == 0) & answer)
        sign, depth = (1, missing) if missing.max() > surplus.max() else (-1, surplus)
        rows.append([(*_deep(depth), sign)] if depth.max() > 0 else [])
    more = _padded(rows, targets)
    return Clicks(torch.cat([clicks.places, more.places], 1), torch.cat([clicks.signs, more.signs], 1))


def _random_clicks(target: NDArray[np.float32], most: int) -> list[tuple[int, int, int]]:
    inside = target == 1
    if not inside.any():
        return []
    depth = _depth(inside)
    result = [(*_deep(depth), 1) for _ in range(_draw(1, most))]
    reach = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 3)
    beside = (target == 0) & (reach > 1) & (reach < NEAR * max(target.shape))
    if beside.any():
        places = np.argwhere(beside)
        result += [(*places[_draw(0, len(places) - 1)].tolist(), -1) for _ in range(_draw(0, most))]
    return result


def _depth(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel to what is not of the region, of which the image's border is one."""
    framed = np.pad(region.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32)


def _deep(depth: NDArray[np.float32]) -> tuple[int, int]:
    """Row and column of a random pixel at least half as deep as the deepest."""
    places = np.argwhere(depth >= max(depth.max() / 2, 1e-6))
    row, column = places[_draw(0, len(places) - 1)].tolist()
    return row, column


def _draw(low: int, high: int) -> int:
    """A whole number from low to high, from torch's generator, which seeds set."""
    return int(torch.randint(low, high + 1, ()))


def _padded(rows: list[list[tuple[int, int, int]]], like: Tensor) -> Clicks:
    num = max((len(row) for row in rows), default=0)
    places = torch.zeros(len(rows), num, 2)
    signs = torch.zeros(len(rows), num, dtype=torch.int64)
    for i, row in enumerate(rows):
        for j, (y, x, sign) in enumerate(row):
            places[i, j], signs[i, j] = torch.tensor([y, x]), sign
    return Clicks(places.to(like.device), signs.to(like.device))
