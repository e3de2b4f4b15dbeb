"""Matte: how much of every pixel belongs to the foreground, from not at all to wholly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.structures.pixels import Change, PixelMap, check_map, smooth
from eachmask.structures.view import Viewable


@dataclass(eq=False, repr=False)
class Matte(PixelMap, Viewable):
    """Opacities, and perhaps the colors of the foreground without the background that shines through.

    >>> matte = Matte(torch.tensor([[0.0, 0.5, 1.0, 1.0]]))
    >>> matte
    Matte(1 x 4, 62% foreground)
    >>> matte.resize((1, 2)).alpha.shape
    torch.Size([1, 2])

    Raises:
        ValueError: alpha is not (H, W) float in 0..1, or the foreground not (3, H, W).
    """

    alpha: Tensor
    """(H, W) float in 0..1; the image is alpha * foreground + (1 - alpha) * background."""
    foreground: Tensor | None = None
    """(3, H, W) float RGB in 0..1, the object's own colors; None: the image's."""

    def __post_init__(self) -> None:
        check_map(self.alpha, "alpha")
        if not self.alpha.is_floating_point():
            raise ValueError(f"alpha must be float in 0..1, not {self.alpha.dtype}: divide it by its full scale")
        if self.alpha.numel() and not bool(((self.alpha >= 0) & (self.alpha <= 1)).all()):
            raise ValueError(
                f"alpha must lie in 0..1, but goes from {float(self.alpha.min()):g} to {float(self.alpha.max()):g}"
            )
        if self.foreground is not None and self.foreground.shape != (3, *self.image_size):
            raise ValueError(f"the foreground must be (3, H, W) as alpha, not {tuple(self.foreground.shape)}")

    def __repr__(self) -> str:
        height, width = self.image_size
        share = float(self.alpha.mean()) if self.alpha.numel() else 0.0
        colors = "" if self.foreground is None else " with its colors"
        return f"Matte({height} x {width}, {100 * share:.0f}% foreground{colors})"

    @property
    def image_size(self) -> tuple[int, int]:
        return int(self.alpha.shape[0]), int(self.alpha.shape[1])

    def resize(self, image_size: tuple[int, int]) -> Matte:
        """Stretched to another (height, width): bilinear, over all that a pixel covers where it becomes smaller."""
        return self._changed(lambda values, outside: smooth(values, image_size).clamp(0, 1))

    def over(self, image: Tensor, background: Tensor) -> Tensor:
        """The foreground before another background.

        Args:
            image: (3, H, W) float RGB in 0..1, from which it was cut; its colors serve where there are no own.
            background: (3, H, W), or (3, 1, 1) of one color.
        """
        colors = image if self.foreground is None else self.foreground
        return torch.lerp(background.expand_as(colors), colors, self.alpha.to(colors))

    def to_rgba(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The cut-out: (H, W, 3) uint8 image -> (H, W, 4) uint8, for a PNG with transparency.

        Raises:
            ValueError: the image is of another size.
        """
        if image.shape[:2] != self.image_size:
            raise ValueError(f"an image of {image.shape[:2]} for a matte on {self.image_size} (height, width)")
        alpha = (self.alpha.float() * 255).round().byte().cpu().numpy()
        if self.foreground is not None:
            image = (self.foreground.float() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return np.dstack([image, alpha])

    def _changed(self, change: Change) -> Matte:
        foreground = None if self.foreground is None else change(self.foreground, 0)
        return replace(self, alpha=change(self.alpha, 0), foreground=foreground, view=None)
