"""Made rosettes: plants from above, whose leaves overlap, on soil, with shadows and a lens that blurs.

For teaching and for tests of systems that count and separate leaves, where the field's own photographs (CVPPP) cannot
be had. Everything follows from the seed. :func:`write_rosettes` makes a data set of them; ``examples/rosettes.py`` is
its command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from eachmask.data.formats.cvppp import LEAF, write_counts, write_maps
from eachmask.data.sample import Sample
from eachmask.files.png import png
from eachmask.structures import RLE, Instances

CATEGORIES = (LEAF,)


def write_rosettes(
    folder: Path,
    splits: Mapping[str, int],
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
    leaves: tuple[int, int] = (4, 12),
) -> None:
    """Write a data set of plants in the CVPPP layout, which ``eachmask train --data FOLDER`` takes.

    Args:
        folder: below it ``SPLIT/plant001_rgb.png``, ``_label.png``, ``_fg.png`` and ``SPLIT/SPLIT.csv`` are written.
        splits: name -> number of plants.
        seed: of the first plant; the others follow, so that no two splits share one.
        size, leaves: see :func:`rosette`.
    """
    for split, num in splits.items():
        rows = []
        for number in range(1, num + 1):
            plant, seed = rosette(seed, size, leaves), seed + 1
            stem = folder / split / f"plant{number:03d}"
            assert plant.targets.masks is not None
            write_maps(stem, plant.targets.masks)
            image = stem.with_name(f"{stem.name}_rgb.png")
            image.write_bytes(png(plant.image))
            rows.append((image.name, len(plant.targets)))
        write_counts(folder / split / f"{split}.csv", rows)


def rosette(seed: int, size: tuple[int, int] = (128, 128), leaves: tuple[int, int] = (4, 12)) -> Sample[Instances]:
    """One plant.

    Args:
        size: (height, width), px.
        leaves: smallest and largest number; a leaf that others hide entirely is no object.

    Returns:
        image (H, W, 3) uint8; one mask per visible leaf, younger leaves above older ones.
    """
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    center = np.array(size) * rng.uniform(0.42, 0.58, 2)
    num = int(rng.integers(leaves[0], leaves[1] + 1))
    image = _soil(rng, size)
    ids = np.zeros(size, np.int32)
    angle = rng.uniform(0, 2 * np.pi)
    for i in range(num):
        angle += np.deg2rad(137.5) + rng.normal(0, 0.15)  # the golden angle, at which leaves follow each other
        length = min(size) * rng.uniform(0.9, 1.1) * (0.46 - 0.28 * i / num)
        along, across = _leaf_coordinates(xs - center[1], ys - center[0], angle)
        inside = _blade(along / length, across / length, rng.uniform(0.2, 0.3))
        shadow = ndimage.gaussian_filter(ndimage.shift(inside.astype(float), (2, 2), order=0), 1.5)
        image *= 1 - 0.45 * (shadow * ~inside)[..., None]
        image[inside] = _leaf_color(rng, along / length, across / length)[inside]
        ids[inside] = i + 1
    blur = rng.uniform(0.4, 1.1)
    image = ndimage.gaussian_filter(image, (blur, blur, 0)) * rng.uniform(0.75, 1.1)
    image += rng.normal(0, 4, image.shape)
    masks = RLE.from_label_map(ids)
    targets = Instances(size, torch.from_numpy(masks.boxes()), masks, categories=CATEGORIES)
    return Sample(np.clip(np.rint(image), 0, 255).astype(np.uint8), targets)


def _soil(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Brown, in grains and in patches."""
    patches = ndimage.gaussian_filter(rng.normal(size=size), min(size) / 12)
    grains = rng.normal(size=size)
    light = 1 + 0.25 * patches / max(float(np.abs(patches).max()), 1e-9) + 0.12 * grains
    result: np.ndarray = light[..., None] * np.array([96.0, 74.0, 56.0])
    return result


def _leaf_coordinates(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Along the leaf's axis from the plant's middle, and across it."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _blade(along: np.ndarray, across: np.ndarray, width: float) -> np.ndarray:
    """A stalk and a rounded blade, in units of the leaf's length."""
    blade = ((along - 0.66) / 0.34) ** 2 + (across / width) ** 2 <= 1
    stalk = (along >= 0) & (along <= 0.4) & (np.abs(across) <= 0.035)
    result: np.ndarray = blade | stalk
    return result


def _leaf_color(rng: np.random.Generator, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Green, lighter towards the tip and along the middle vein."""
    base = np.array([70.0, 135.0, 48.0]) * rng.uniform(0.75, 1.2) + rng.normal(0, 6, 3)
    light = 0.85 + 0.3 * np.clip(along, 0, 1) + 0.2 * np.exp(-((across / 0.02) ** 2))
    result: np.ndarray = light[..., None] * base
    return result
