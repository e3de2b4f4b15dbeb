"""PixelMap: what maps, mattes and trimaps share, one value for every pixel of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures.spatial import window_of

Change = Callable[[Tensor, int], Tensor]
"""(values (..., H, W), value of what lies outside) -> values of another image."""


class PixelMap(ABC):
    """Moves every layer of pixels in step; how they are resized is each noun's own.

    >>> from eachmask.structures import SemanticMap
    >>> seen = SemanticMap(torch.tensor([[0, 1, 2]]))
    >>> seen.flip().labels.tolist(), seen.crop((1, 0, 3, 1)).labels.tolist()
    ([[2, 1, 0]], [[1, 2]])
    """

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

    def warp(self, matrix: NDArray[np.float64], image_size: tuple[int, int]) -> Self:
        """Moved by an affine map onto a canvas of (height, width); outside the image its mirror image continues it.

        Args:
            matrix: (2, 3), from the centers of pixels (column, row) here to those there.
        """
        return self._changed(lambda values, outside: warped(values, matrix, image_size))

    def to(self, device: torch.device | str) -> Self:
        """Tensors on another device."""
        return self._changed(lambda values, outside: values.to(device))


def check_map(values: Tensor, what: str) -> None:
    """Raises ValueError where a layer of pixels is not (H, W).

    >>> try:
    ...     check_map(torch.zeros(3), "labels")
    ... except ValueError as error:
    ...     print(error)
    labels must be (H, W), not (3,)
    """
    if values.ndim != 2:
        raise ValueError(f"{what} must be (H, W), not {tuple(values.shape)}")


def moved(values: Tensor, dx: int, dy: int, size: tuple[int, int], outside: int) -> Tensor:
    """(..., H, W) values moved onto a canvas of (height, width) that is ``outside`` elsewhere.

    >>> moved(torch.tensor([[1, 2, 3]]), 1, 0, (1, 3), outside=0).tolist()
    [[0, 1, 2]]
    """
    result = values.new_full((*values.shape[:-2], *size), outside)
    x1, y1 = max(dx, 0), max(dy, 0)
    x2, y2 = min(dx + values.shape[-1], size[1]), min(dy + values.shape[-2], size[0])
    if x2 > x1 and y2 > y1:
        result[..., y1:y2, x1:x2] = values[..., y1 - dy : y2 - dy, x1 - dx : x2 - dx]
    return result


def warped(values: Tensor, matrix: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
    """(..., H, W) values moved by an affine map, see :meth:`PixelMap.warp`: floats are interpolated, labels never.

    >>> by_one = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> warped(torch.tensor([[1, 2, 3]]), by_one, (1, 3)).tolist()  # mirrored at the border
    [[2, 1, 2]]
    """
    import cv2

    flags = cv2.INTER_LINEAR if values.is_floating_point() else cv2.INTER_NEAREST
    layers = values.cpu().reshape(-1, *values.shape[-2:]).to(torch.float64)  # exact for all labels
    found = [
        cv2.warpAffine(layer.numpy(), matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for layer in layers
    ]
    inside = np.stack(found).clip(layers.min().item(), layers.max().item())  # rounding must not leave 0..1
    return torch.from_numpy(inside).to(values).reshape(*values.shape[:-2], *size)


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
    """(H, W) or (C, H, W) values at another size: bilinear, over all that a pixel covers where it becomes smaller.

    >>> smooth(torch.tensor([[0.0, 1.0]]), (1, 4)).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    batch = values.reshape(1, -1, *values.shape[-2:])
    resized = F.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.reshape(*values.shape[:-2], *size)
