"""Which model fits images that nobody has named one for: a look at brightness and color, nothing learnt.

Microscope images are gray on a dark or a bright ground, stained (purple and pink, or brown and blue), or fields of
compact spots; photographs are none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
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
_BLOCK = 24
"""Side of the squares in which both colors of a counterstained section are looked for, px."""
MIN_SPOTS, MIN_SPOT_AREA, MIN_SPOT_SHARE = 8, 25, 0.5
"""Compact spots of so many px each that make a field of them, and their least share of all that is bright."""


def looks_like_microscopy(image: NDArray[Any]) -> bool:
    """Whether an image is more like a microscope's than like a photograph.

    So is a field of compact bright things, such as coins or galaxies: they are found as nuclei are. Of the 112 val and
    test images of the 2018 Data Science Bowl all do; of 200 photographs of COCO two do (black and white drawings on
    white).

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
        return ground < 0.3 or ground > 0.75 or _shows_spots(brightness)
    stained = float(np.mean(np.minimum(red, blue) - green > 0.02))
    foreign = float(np.mean((green > red + 0.03) | ((green > blue + 0.03) & (red > blue + 0.03))))
    pale = ground > 0.78 and stained > 0.18 and foreign < 0.25 and stained + foreign > 0.4
    return (stained > 0.55 and foreign < 0.15) or pale or _counterstained(small) or _shows_spots(brightness)


def _counterstained(small: NDArray[Any]) -> bool:
    """Brown (DAB) beside pale blue (hematoxylin) all over a bright section, without green and without strong colors."""
    red, green, blue = np.moveaxis(small, 2, 0)
    brightness = small.mean(axis=2)
    bright = np.median(brightness) > 0.5 and np.percentile(brightness, 2) > 0.2
    pale = np.percentile(np.ptp(small, axis=2), 98) < 0.45
    plants = np.mean((green > red + 0.02) & (green > blue + 0.02)) > 0.01
    bluish = _block_shares((blue > green + 0.01) & (blue > red + 0.02)) > 0.1
    brown = _block_shares((red > green + 0.03) & (green > blue + 0.03)) > 0.1
    return bool(bright and pale and not plants and np.mean(bluish & brown) > 0.12)


def _block_shares(where: NDArray[np.bool_]) -> NDArray[np.floating[Any]]:
    """Share of each block of pixels, (H / block, W / block); a rest at the ends is left out."""
    height, width = (max(1, side // _BLOCK) for side in where.shape)
    block = (min(_BLOCK, where.shape[0]), min(_BLOCK, where.shape[1]))
    whole = where[: height * block[0], : width * block[1]]
    return np.asarray(whole.reshape(height, block[0], width, block[1]).mean(axis=(1, 3)))


def _shows_spots(brightness: NDArray[Any]) -> bool:
    """Whether most of what is bright (Otsu's threshold) are compact spots, and there are several."""
    smooth = cv2.GaussianBlur(np.clip(brightness * 255, 0, 255).astype(np.uint8), (0, 0), 1.0)
    _, bright = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [outline for outline in outlines if cv2.contourArea(outline) >= MIN_SPOT_AREA]
    spots = [cv2.contourArea(outline) for outline in large if _is_compact(outline)]
    everything = sum(cv2.contourArea(outline) for outline in large)
    return len(spots) >= MIN_SPOTS and sum(spots) >= MIN_SPOT_SHARE * everything


def _is_compact(outline: Any) -> bool:
    """Nearly convex, and less than twice as long as wide."""
    _, sides, _ = cv2.minAreaRect(outline)
    solid = cv2.contourArea(outline) > 0.85 * cv2.contourArea(cv2.convexHull(outline))
    return solid and min(sides) > 0.55 * max(sides)


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
