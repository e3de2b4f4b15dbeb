"""Spatial: what everything that lies on an image has in common, whether a model says it or a user hands it over.

Tiling, placing and every transform of images are written once on these six, for objects, maps, mattes and clicks alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

import torch

from eachmask.structures.category import Category


@runtime_checkable
class Spatial(Protocol):
    """Lies on an image of ``image_size`` = (height, width) px. Each method returns a new value on a new canvas.

    >>> from eachmask.structures import Matte
    >>> isinstance(Matte(torch.ones(2, 4)), Spatial)
    True
    """

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width), px."""

    def resize(self, image_size: tuple[int, int]) -> Self:
        """Stretched to an image of another (height, width)."""

    def crop(self, box: Sequence[int]) -> Self:
        """What lies in the window (x1, y1, x2, y2), whole pixels.

        Raises:
            ValueError: the window is empty.
        """

    def shift(self, dx: int, dy: int, image_size: tuple[int, int]) -> Self:
        """Moved by whole pixels onto a canvas of (height, width); what leaves it is cut."""

    def flip(self) -> Self:
        """Mirrored left to right."""

    def to(self, device: torch.device | str) -> Self:
        """Tensors on another device."""


@runtime_checkable
class Labeled(Protocol):
    """Speaks of categories by labels, their places in a tuple."""

    categories: tuple[Category, ...]

    def present(self) -> set[int]:
        """The labels that occur."""

    def relabeled(self, labels: Mapping[int, int], categories: tuple[Category, ...]) -> Self:
        """In other categories: label k becomes ``labels[k]`` of them; what has none there is left out."""


def window_of(box: Sequence[int]) -> tuple[int, int, int, int]:
    """A window (x1, y1, x2, y2) in whole pixels, checked.

    Raises:
        ValueError: it is empty.

    >>> window_of([1.0, 2.0, 5.0, 4.0])
    (1, 2, 5, 4)
    """
    x1, y1, x2, y2 = (int(v) for v in box)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"the window {(x1, y1, x2, y2)} is empty")
    return x1, y1, x2, y2
