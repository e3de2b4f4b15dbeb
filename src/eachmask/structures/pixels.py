"""PixelMap: what maps, mattes and trimaps share, one value for every pixel of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures.spatial import window_of

Change = Callable[[Tensor, int], Tensor]
"""(values (..., H, W), value of what lies outside) -> values of another image."""


class PixelMap(ABC):
    """Moves every layer of pixels in step; how they are resized is each noun's own."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """(height, width), px."""

    @abstractmethod
    def resize(self, image_size: tuple[int, int]) -> Self:
        """Stretched to an image of another (height, width)."""

    @abstractmethod
    def _changed(self, change: Change) -> Self:
        """The same with every layer of pixels changed."""

    def crop(self, box: Sequence[int]) -> Self:
        """What lies in the window (x1, y1, x2, y2), whole pixels; the window may leave the image.

        Raises:
            ValueError: the window is empty.
        """
        x1, y1, x2, y2 = window_of(box)
        return self.shift(-x1, -y1, (y2 - y1, x2 - x1))

    def shift(self, dx: int, dy: int, image_size: tuple[int, int]) -> Self:
        """Moved by whole pixels onto a canvas of (height, width); what leaves it is cut."""
        return self._changed(lambda values, outside: moved(values, dx, dy, image_size, outside))

    def flip(self) -> Self:
        """Mirrored left to right."""
        return self._changed(lambda values, outside: values.flip(-1))

    def to(self, device: torch.device | str) -> Self:
        """Tensors on another device."""
        return self._changed(lambda values, outside: values.to(device))


def check_map(values: Tensor, what: str) -> None:
    """Raises ValueError where a layer of pixels is not (H, W)."""
    if values.ndim != 2:
        raise ValueError(f"{what} must be (H, W), not {tuple(values.shape)}")


def moved(values: Tensor, dx: int, dy: int, size: tuple[int, int], outside: int) -> Tensor:
    """(..., H, W) values moved onto a canvas of (height, width) that is ``outside`` elsewhere."""
    result = values.new_full((*values.shape[:-2], *size), outside)
    x1, y1 = max(dx, 0), max(dy, 0)
    x2, y2 = min(dx + values.shape[-1], size[1]), min(dy + values.shape[-2], size[0])
    if x2 > x1 and y2 > y1:
        result[..., y1:y2, x1:x2] = values[..., y1 - dy : y2 - dy, x1 - dx : x2 - dx]
    return result


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) labels at another size: each pixel takes the label that lies at its center.

    >>> nearest(torch.tensor([[0, 1, 2]]), (1, 5))
    tensor([[0, 0, 1, 2, 2]])
    """
    rows, columns = (_at_centers(old, new).to(labels.device) for old, new in zip(labels.shape[-2:], size, strict=True))
    return labels.index_select(-2, rows).index_select(-1, columns)


def _at_centers(old: int, new: int) -> Tensor:
    return ((torch.arange(new, dtype=torch.float64) + 0.5) * old / max(new, 1)).long().clamp(max=old - 1)


def smooth(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) or (C, H, W) values at another size: bilinear, over all that a pixel covers where it becomes smaller."""
    batch = values.reshape(1, -1, *values.shape[-2:])
    resized = F.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.reshape(*values.shape[:-2], *size)
