"""Mattes: the foreground alone, before a checkerboard that shines through where it is transparent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.draw.display import check_size, to_display
from eachmask.draw.options import DrawOptions, RGBImage
from eachmask.structures import Matte

_LIGHT, _DARK = 255, 204
"""Brightness of the squares."""


def draw_matte(image: NDArray[Any], matte: Matte, options: DrawOptions | None = None) -> RGBImage:
    """The cut-out before a checkerboard.

    Args:
        image: (H, W, 3) uint8, uint16 or float32 RGB.
        options: ``stretch`` counts.

    Raises:
        ValueError: the image has another size than the matte.
    """
    check_size(image, matte)
    canvas = to_display(image, None if options is None else options.stretch)
    cut = matte.to_rgba(canvas)
    alpha = matte.alpha.float().cpu().numpy()[..., None]
    mixed = cut[..., :3] * alpha + checkerboard(*matte.image_size)[..., None] * (1 - alpha)
    drawn: RGBImage = np.rint(mixed).astype(np.uint8)
    return drawn


def checkerboard(height: int, width: int) -> NDArray[np.uint8]:
    """(H, W) of light and dark squares, about forty along the mean side."""
    side = max(4, round(math.sqrt(height * width) / 40))
    odd = (np.arange(height)[:, None] // side + np.arange(width)[None] // side) % 2
    return np.where(odd, _DARK, _LIGHT).astype(np.uint8)
