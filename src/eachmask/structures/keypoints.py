"""Keypoints: float (N, P, 3) of x, y in pixels and visibility (targets: 0, 1, 2) or score (predictions).

A keypoint that is not labeled is (0, 0, 0), as COCO writes it, and so it stays whatever happens to the image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from eachmask.structures.boxes import ratios


def resize(keypoints: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Keypoints of an image stretched from one (height, width) to another.

    >>> resize(torch.tensor([[[10.0, 20, 2]]]), (100, 100), (50, 200)).tolist()
    [[[20.0, 10.0, 2.0]]]
    """
    factors = ratios(old, new).to(keypoints)
    return torch.cat([keypoints[..., :2] * factors, keypoints[..., 2:]], dim=-1)


def flip(keypoints: Tensor, width: int, pairs: Sequence[tuple[int, int]] = ()) -> Tensor:
    """Mirrored left to right.

    Args:
        keypoints: (N, P, 3).
        width: of the image, pixels.
        pairs: indices of keypoints that change their names in a mirror, as left and right eye do.

    >>> flip(torch.tensor([[[10.0, 20, 2], [30, 20, 1]]]), width=100, pairs=[(0, 1)]).tolist()
    [[[70.0, 20.0, 1.0], [90.0, 20.0, 2.0]]]
    """
    x, y, v = keypoints.unbind(-1)
    mirrored = torch.stack([width - x, y, v], dim=-1)
    order = list(range(keypoints.shape[1]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return torch.where(labeled(keypoints)[..., None], mirrored, keypoints)[:, order]


def mirror_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Indices of keypoints that change their names in a mirror: ``left_eye`` and ``right_eye``, ``L_F_paw`` and
    ``R_F_paw``.

    >>> mirror_pairs(("nose", "left_eye", "right_eye"))
    ((1, 2),)
    """
    place = {name.lower(): i for i, name in enumerate(names)}
    mirrored = {name: re.sub(r"(?<![a-z])(left|l)(?![a-z])", _right, name) for name in place}
    return tuple((place[name], place[other]) for name, other in mirrored.items() if other != name and other in place)


def _right(left: re.Match[str]) -> str:
    return "right" if left.group() == "left" else "r"


def crop(keypoints: Tensor, box: Sequence[int]) -> Tensor:
    """Keypoints in the coordinates of the window (x1, y1, x2, y2); those outside it become (0, 0, 0).

    >>> crop(torch.tensor([[[10.0, 20, 2], [90, 20, 1]]]), (5, 5, 50, 50)).tolist()
    [[[5.0, 15.0, 2.0], [0.0, 0.0, 0.0]]]
    """
    x1, y1, x2, y2 = box
    x, y, v = keypoints.unbind(-1)
    kept = labeled(keypoints) & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    moved = torch.stack([x - x1, y - y1, v], dim=-1)
    return torch.where(kept[..., None], moved, torch.zeros_like(moved))


def labeled(keypoints: Tensor) -> Tensor:
    """(N, P) bool: not (0, 0, 0).

    >>> labeled(torch.tensor([[[10.0, 20, 2], [0, 0, 0]]])).tolist()
    [[True, False]]
    """
    return (keypoints != 0).any(-1)
