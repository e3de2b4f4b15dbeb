"""How overlays look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RGBImage = NDArray[np.uint8]
"""(H, W, 3)."""
Color = tuple[int, int, int]
"""Red, green and blue, 0..255."""


@dataclass(frozen=True)
class DrawOptions:
    """How an overlay looks. ``None`` lets the image decide: few objects are filled and named, many (more
    than ``crowded``) get thin outlines and a light tint."""

    color_by: Literal["class", "instance"] = "instance"
    """The same class always has the same color, or every object of an image (or track) its own."""
    fill: float | None = None
    """Opacity of the masks, 0..1."""
    outline: int | None = None
    """Thickness, px; 0 is none."""
    names: bool | None = None
    """Write class and score beside each object."""
    keypoint_score: float = 0.02
    """Keypoints that score less are not drawn, nor are limbs that end in them; a score is the chance of the very place,
    so a good one is far from 1."""
    crowded: int = 50
    """More objects than this make a crowd."""
    stretch: bool | None = None
    """Show the 1st to 99.8th percentile of brightness as black to white; None: 16-bit, float and very dark
    images only."""
