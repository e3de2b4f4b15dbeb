"""Endlessly many colors that are about equally bright to the eye."""

from __future__ import annotations

import math

import numpy as np

from eachmask.draw.options import Color, DrawOptions
from eachmask.structures import Instances

_GOLDEN_ANGLE = 137.50776


def color(index: int) -> Color:
    """The index-th of endlessly many colors: neighbors differ in hue and lightness, none is dark.

    Golden-angle hues in Oklch (Ottosson, "A perceptual color space for image processing", 2020), so that
    all are about equally bright to the eye.
    """
    hue = math.radians(25 + index * _GOLDEN_ANGLE)
    lightness, chroma = (0.72, 0.80, 0.64)[index % 3], 0.17
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    cone = np.array([
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
    ]) ** 3  # fmt: skip
    to_linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ])  # fmt: skip
    linear = np.clip(to_linear @ cone, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(encoded * 255))
    return red, green, blue


def instance_colors(instances: Instances, options: DrawOptions) -> list[Color]:
    """One color per object: of its class, or of its track or number."""
    if options.color_by == "class":
        return [color(label) for label in instances.labels.tolist()]
    if instances.track_ids is not None:
        return [color(int(track)) for track in instances.track_ids.tolist()]
    return [color(i) for i in range(len(instances))]


def ink(plate: Color) -> Color:
    """Black or white, whichever reads better on the plate (relative luminance, WCAG 2)."""
    linear = [(v / 255) ** 2.2 for v in plate]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.18 else (255, 255, 255)
