"""Backdrop: what is behind an object, by itself: a clean photograph of the background, or a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from eachmask.structures.pixels import Change, PixelMap, smooth


@dataclass(eq=False, repr=False)
class Backdrop(PixelMap):
    """Colors alone.

    >>> import torch
    >>> Backdrop(torch.zeros(3, 2, 5)).resize((4, 10))
    Backdrop(4 x 10)

    Raises:
        ValueError: the colors are not (3, H, W) float.
    """

    colors: Tensor
    """(3, H, W) float RGB in 0..1."""

    def __post_init__(self) -> None:
        if self.colors.ndim != 3 or len(self.colors) != 3 or not self.colors.is_floating_point():
            raise ValueError(f"colors must be (3, H, W) float, not {tuple(self.colors.shape)} {self.colors.dtype}")

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Backdrop({height} x {width})"

    @property
    def image_size(self) -> tuple[int, int]:
        return int(self.colors.shape[1]), int(self.colors.shape[2])

    def resize(self, image_size: tuple[int, int]) -> Backdrop:
        """Stretched to another (height, width): bilinear, over all that a pixel covers where it becomes smaller."""
        return self._changed(lambda values, outside: smooth(values, image_size).clamp(0, 1))

    def _changed(self, change: Change) -> Backdrop:
        return replace(self, colors=change(self.colors, 0))
