"""Which model fits images that nobody has named one for: a look at brightness and color, nothing learnt.

Microscope images are gray on a dark or a bright ground, or stained in purple and pink; photographs are neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.read import read_image
from eachmask.structures import UserError

MICROSCOPY = "nuclei"
PHOTOGRAPHS = ("objects", "mask_rcnn_r50_fpn_v2")
"""In the order of preference: bundled, downloaded."""
LOOKED_AT = 8
"""So many of the images decide for all."""
SIDE = 256
"""Pixels along the longer side that are looked at."""


def looks_like_microscopy(image: NDArray[Any]) -> bool:
    """Whether an image is more like a microscope's than like a photograph.

    Of the 112 val and test images of the 2018 Data Science Bowl all do; of 200 photographs of COCO two do (black and
    white drawings on white).

    Args:
        image: (H, W, 3) unsigned integers or floats.
    """
    step = max(1, max(image.shape[:2]) // SIDE)
    small = image[::step, ::step].astype(np.float32)
    small /= 255.0 if image.dtype == np.uint8 else max(float(np.percentile(small, 99.8)), 1e-6)
    red, green, blue = np.moveaxis(small, 2, 0)
    brightness = small.mean(axis=2)
    low, high = np.percentile(brightness, (1, 99.8))
    ground = float((np.median(brightness) - low) / max(high - low, 1e-3))
    if np.mean(np.ptp(small, axis=2) < 0.02) > 0.98:  # gray: fluorescence on black, or brightfield on white
        return ground < 0.3 or ground > 0.75
    stained = float(np.mean(np.minimum(red, blue) - green > 0.02))
    foreign = float(np.mean((green > red + 0.03) | ((green > blue + 0.03) & (red > blue + 0.03))))
    pale = ground > 0.78 and stained > 0.18 and foreign < 0.25 and stained + foreign > 0.4
    return (stained > 0.55 and foreign < 0.15) or pale


def mostly_microscopy(paths: Sequence[Path]) -> bool:
    """Whether more than half of the first readable images look like a microscope's."""
    votes = []
    for path in paths[:LOOKED_AT]:
        try:
            votes.append(looks_like_microscopy(read_image(path)))
        except UserError:
            continue  # it is named when its turn comes
    return sum(votes) * 2 > len(votes)


def auto_model(paths: Sequence[Path]) -> str:
    """Name of the model that fits these images: ``nuclei``, or the best model for photographs that is here."""
    from eachmask.weights.catalogue import bundled

    if mostly_microscopy(paths):
        return MICROSCOPY
    return next((name for name in PHOTOGRAPHS if name in bundled()), PHOTOGRAPHS[-1])
