"""Made foregrounds whose opacity is known exactly: hair, fur, leaves, smoke, glass, and objects cut out of photographs;
sharp, out of focus or in motion.

Photographs do not say how much of a pixel a hair covers, so that matting is learned from what is drawn (Sengupta et
al., "Background Matting: The World is Your Green Screen", CVPR 2020; Lin et al., CVPR 2021). What has edges is drawn at
three times the resolution and averaged: the opacity of a pixel is the share of it that is covered. Everything follows
from the random numbers that are handed in.

Shapes: H x W px; colors RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures.masks import Masks

SUPER = 3
"""Drawn pixels per pixel and direction."""

Values = NDArray[Any]
"""Of float32 in 0..1."""
Rng = np.random.Generator


class Foreground(NamedTuple):
    """What is put before a background."""

    colors: Values  # (H, W, 3) its own, also where it is hardly there
    alpha: Values  # (H, W) 0..1

    def over(self, other: Foreground) -> Foreground:
        """Both as one, this one in front."""
        alpha = self.alpha + other.alpha * (1 - self.alpha)
        mixed = self.colors * self.alpha[..., None] + other.colors * (other.alpha * (1 - self.alpha))[..., None]
        return Foreground(_divided(mixed, alpha), alpha)

    def blurred(self, kernel: Values) -> Foreground:
        """As a lens or a movement spreads it: (k, k) that sums to 1."""
        alpha = cv2.filter2D(self.alpha, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        spread = cv2.filter2D(self.colors * self.alpha[..., None], -1, kernel, borderType=cv2.BORDER_REPLICATE)
        return Foreground(_divided(spread, alpha), np.clip(alpha, 0, 1))


def _divided(mixed: Values, alpha: Values) -> Values:
    """Colors from colors times opacity; gray where nothing is."""
    there = alpha > 1e-4
    return np.where(there[..., None], np.clip(mixed / np.maximum(alpha, 1e-4)[..., None], 0, 1), 0.5).astype(np.float32)


# Drawing --------------------------------------------------------------------------------------------------------------


class Sketch:
    """A canvas of three times the resolution on which things are either there or not."""

    def __init__(self, colors: Values) -> None:
        """What is drawn without a color shows these (H, W, 3)."""
        self.size = colors.shape[:2]
        wide = (self.size[1] * SUPER, self.size[0] * SUPER)
        self.colors = cv2.resize((colors * 255).round().astype(np.uint8), wide, interpolation=cv2.INTER_LINEAR)
        self.covered = np.zeros(wide[::-1], np.uint8)

    def fill(self, corners: NDArray[Any], color: Values | None = None) -> None:
        """A polygon, (n, 2) xy px."""
        points = [(corners * SUPER).round().astype(np.int32)]
        cv2.fillPoly(self.covered, points, (1,))
        if color is not None:
            cv2.fillPoly(self.colors, points, _uint8(color))

    def line(self, points: NDArray[Any], color: Values, width: int) -> None:
        """A line through (n, 2) xy px, ``width`` thirds of a pixel wide."""
        drawn = [(points * SUPER).round().astype(np.int32)]
        cv2.polylines(self.covered, drawn, False, (1,), width)
        cv2.polylines(self.colors, drawn, False, _uint8(color), width)

    def foreground(self) -> Foreground:
        """Averaged down to the resolution of images."""
        size = (self.size[1], self.size[0])
        alpha = cv2.resize(self.covered.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        seen = self.colors.astype(np.float32) * (self.covered[..., None] / np.float32(255))
        return Foreground(_divided(cv2.resize(seen, size, interpolation=cv2.INTER_AREA), alpha), alpha)


def _uint8(color: Values) -> tuple[int, ...]:
    return tuple(int(v) for v in np.clip(np.asarray(color) * 255, 0, 255).round())


def blob(rng: Rng, size: tuple[int, int]) -> NDArray[Any]:
    """(n, 2) outline of a rounded thing somewhere near the middle, which may leave the image at the bottom."""
    height, width = size
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    wave = sum(rng.normal(0, 0.25 / k) * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    radius = min(size) * rng.uniform(0.15, 0.3) * np.clip(1 + wave, 0.5, 1.6)
    stretch = rng.uniform(0.7, 1.4)
    center = np.array([width * rng.uniform(0.35, 0.65), height * rng.uniform(0.4, 0.8)])
    return center + np.stack([np.cos(angle) * radius, np.sin(angle) * radius * stretch], 1)


def clouds(rng: Rng, size: tuple[int, int], octaves: int = 5) -> Values:
    """(H, W) smooth noise of several scales, 0..1."""
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        cells = 2 << octave
        grid = rng.random((cells + 1, cells + 1), np.float32)
        total += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    low, high = float(total.min()), float(total.max())
    return (total - low) / np.float32(max(high - low, 1e-6))


def strands(
    sketch: Sketch, rng: Rng, starts: NDArray[Any], outward: NDArray[Any], colors: Values, length: float
) -> None:
    """Hairs from (n, 2) places in directions (n,) rad, that bend, hang and curl; colors (n, 3), length px at most."""
    steps, num = 12, len(starts)
    curl = np.cumsum(rng.normal(0, rng.uniform(0.02, 0.25), (num, steps)), 1)
    direction = outward[:, None] + rng.normal(0, 0.35, (num, 1)) + curl
    pull = rng.uniform(-0.1, 0.9) * np.linspace(0, 1, steps)
    step = length * rng.uniform(0.15, 1, (num, 1)) / steps
    xs = starts[:, :1] + np.cumsum(np.cos(direction) * step, 1)
    ys = starts[:, 1:] + np.cumsum((np.sin(direction) + pull) * step, 1)
    lines = np.concatenate([starts[:, None], np.stack([xs, ys], 2)], 1)
    light = rng.uniform(0.6, 1.4, (num, 1))
    for line, color, width in zip(lines, colors * light, rng.integers(1, 4, num), strict=True):
        sketch.line(line, color, int(width))


# Kinds ----------------------------------------------------------------------------------------------------------------


def hairy(rng: Rng, texture: Values, length: tuple[float, float], num: tuple[int, int]) -> Foreground:
    """A rounded thing with strands all around or on one side; lengths are shares of the image's shorter side."""
    sketch = Sketch(texture)
    outline = blob(rng, sketch.size)
    sketch.fill(outline)
    center = outline.mean(0)
    count = int(rng.integers(*num))
    chosen = outline[
        (rng.uniform(0, 1, count) * rng.uniform(0.3, 1) * len(outline) + rng.integers(90)).astype(int) % 90
    ]
    inner = center + (chosen - center) * rng.uniform(0.8, 1, (count, 1)) + rng.normal(0, 1.5, (count, 2))
    outward = np.arctan2(*(chosen - center).T[::-1])
    color = rng.random(3) if rng.random() < 0.5 else texture.mean((0, 1))
    strands(sketch, rng, inner, outward, np.tile(color, (count, 1)), min(sketch.size) * rng.uniform(*length))
    return sketch.foreground()


def hair(rng: Rng, texture: Values) -> Foreground:
    """Long strands."""
    return hairy(rng, texture, (0.1, 0.45), (60, 700))


def fur(rng: Rng, texture: Values) -> Foreground:
    """Short and dense ones."""
    return hairy(rng, texture, (0.02, 0.1), (800, 2500))


def leaves(rng: Rng, texture: Values) -> Foreground:
    """Twigs with leaves, and gaps between them."""
    sketch = Sketch(texture)
    height, width = sketch.size
    green = np.array([0.25, 0.45, 0.15]) * rng.uniform(0.5, 1.6) + rng.normal(0, 0.08, 3)
    across = np.linspace(0, 1, 14)
    for _ in range(int(rng.integers(2, 6))):
        root = np.array([width * rng.uniform(0.2, 0.8), height * rng.uniform(0.6, 1.05)])
        bend = rng.uniform(-1.6, 1.6) + np.cumsum(rng.normal(0, 0.15, 12)) - np.pi / 2
        step = height * rng.uniform(0.3, 0.8) / 12
        twig = root + np.cumsum(np.stack([np.cos(bend), np.sin(bend)], 1) * step, 0)
        sketch.line(twig, np.array([0.3, 0.2, 0.12]) * rng.uniform(0.6, 1.4), int(rng.integers(2, 9)))
        for place in rng.integers(1, 12, int(rng.integers(6, 30))):
            turn, size = rng.uniform(0, 2 * np.pi), min(sketch.size) * rng.uniform(0.03, 0.12)
            side = np.sin(np.pi * across**0.8) * size * rng.uniform(0.15, 0.35)
            own = np.concatenate([np.stack([across * size, side], 1), np.stack([across * size, -side], 1)[::-1]])
            rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            shown = None if rng.random() < 0.3 else green * rng.uniform(0.7, 1.3)
            sketch.fill(twig[place] + own @ rotation, shown)
    return sketch.foreground()


def smoke(rng: Rng, texture: Values) -> Foreground:
    """Clouds that thin out towards nothing."""
    size = (texture.shape[0], texture.shape[1])
    ys, xs = np.mgrid[: size[0], : size[1]] / np.array(size, np.float32).reshape(2, 1, 1)
    near = 1 - np.hypot(xs - rng.uniform(0.3, 0.7), ys - rng.uniform(0.3, 0.7)) / rng.uniform(0.3, 0.6)
    alpha = (
        np.clip((clouds(rng, size) - rng.uniform(0.1, 0.4)) * rng.uniform(1.2, 4), 0, 1) * np.clip(near, 0, 1) ** 0.5
    )
    shade = clouds(rng, size, 4)[..., None] * np.float32(rng.uniform(0, 0.4))
    colors = np.clip(rng.uniform(0.3, 1) + shade + rng.normal(0, 0.03, 3), 0, 1)
    return Foreground(colors.astype(np.float32), (alpha * rng.uniform(0.5, 1)).astype(np.float32))


def glass(rng: Rng, texture: Values) -> Foreground:
    """See-through within, denser at the rim, with reflections."""
    sketch = Sketch(texture)
    sketch.fill(blob(rng, sketch.size))
    whole = sketch.foreground().alpha
    depth = cv2.distanceTransform((whole > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / min(sketch.size)
    rim = np.exp(-depth / rng.uniform(0.01, 0.05)) * rng.uniform(0.3, 0.9)
    lights = np.clip((clouds(rng, sketch.size, 4) - 0.75) * rng.uniform(3, 12), 0, 1)
    alpha = np.clip(rng.uniform(0.05, 0.4) + rim + lights, 0, 1) * whole
    tint = rng.uniform(0.4, 1, 3)
    colors = np.clip(tint * (0.5 + 0.5 * rim[..., None]) + lights[..., None], 0, 1)
    return Foreground(colors.astype(np.float32), alpha.astype(np.float32))


KINDS: dict[str, Callable[[Rng, Values], Foreground]] = {
    "hair": hair,
    "fur": fur,
    "leaves": leaves,
    "smoke": smoke,
    "glass": glass,
}
"""Name -> function of random numbers and a photograph (H, W, 3), whose colors things may wear."""


def cutout(rng: Rng, image: Values, mask: Masks) -> Foreground:
    """An object of a photograph by its mask, with a soft edge a little within the outline and perhaps loose hairs.

    Where the photograph is surely the object its colors are the object's own; what the drawn edge leaves of them is
    exact therefore, whatever the true edge was.
    """
    inside = mask.to_rle().decode()[0].astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(inside, 1, mode="edge"), cv2.DIST_L2, 5)[1:-1, 1:-1]
    margin, width = 1 + 0.006 * min(inside.shape), float(np.exp(rng.uniform(np.log(0.7), np.log(8))))
    soft = np.clip((depth - margin) / width, 0, 1).astype(np.float32)
    body = Foreground(image, soft * soft * (3 - 2 * soft))
    places = np.argwhere((depth > margin + width) & (depth < 3 * (margin + width) + 4))
    if rng.random() < 0.4 or not len(places):
        return body
    chosen = places[rng.integers(len(places), size=int(rng.integers(30, 500)))]
    top = np.quantile(places[:, 0], rng.uniform(0.15, 1))
    chosen = chosen[chosen[:, 0] <= top]
    slopes = [cv2.Sobel(cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 3), -1, *axis) for axis in ((1, 0), (0, 1))]
    outward = np.arctan2(*(-slope[chosen[:, 0], chosen[:, 1]] for slope in slopes[::-1]))
    sketch = Sketch(image)
    length = np.sqrt(inside.sum()) * rng.uniform(0.05, 0.35)
    strands(sketch, rng, chosen[:, ::-1] + 0.5, outward, image[chosen[:, 0], chosen[:, 1]], length)
    return sketch.foreground().over(body)


def out_of_focus(rng: Rng, side: int) -> Values:
    """A disk, whose radius is at most 2% of the image's side: (k, k)."""
    radius = rng.uniform(0.6, max(1.0, 0.02 * side))
    reach = int(np.ceil(radius))
    ys, xs = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(xs, ys), 0, 1).astype(np.float32)
    return np.asarray(disk / disk.sum())


def in_motion(rng: Rng, side: int) -> Values:
    """A line at any angle, at most 6% of the image's side long: (k, k)."""
    length, angle = rng.uniform(2, max(3.0, 0.06 * side)), rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2))
    ys, xs = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = xs * np.cos(angle) + ys * np.sin(angle), ys * np.cos(angle) - xs * np.sin(angle)
    line = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return np.asarray(line / line.sum(), np.float32)
