"""What a backbone gives: maps from fine to coarse, and what a pixel of each is worth."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """A pyramid.

    ``maps[i]`` is (B, channels[i], H / strides[i], W / strides[i]).
    """

    maps: tuple[Tensor, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
