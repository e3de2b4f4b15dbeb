"""Steps of finding everything with points on a grid, without a network.

Kirillov et al., "Segment Anything", 2023, arXiv 2304.02643, section 5 and appendix B; each step is equal to that of the
authors' automatic mask generator.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.int64]

EDGE_TOLERANCE = 20
"""A box this close to a side, px, touches it."""


class Crop(NamedTuple):
    """A window of the image in which everything is looked for."""

    box: tuple[int, int, int, int]  # x1, y1, x2, y2
    layer: int


def point_grid(side: int) -> NDArray[np.float64]:
    """side x side points, row by row, as shares of the width and height: (side ** 2, 2) xy.

    >>> point_grid(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    places = (np.arange(side) + 0.5) / side
    return np.stack([np.tile(places, side), np.repeat(places, side)], axis=1)


def grid_sides(side: int, layers: int, factor: int) -> list[int]:
    """Points per side in the whole image and in the crops of each layer.

    >>> grid_sides(32, layers=2, factor=2)
    [32, 16, 8]
    """
    return [int(side / factor**layer) for layer in range(layers + 1)]


def crop_windows(size: tuple[int, int], layers: int, overlap: float) -> list[Crop]:
    """The whole image, then for each layer i the (2 ** i) ** 2 windows that cover it, column by column.

    Args:
        size: (height, width).
        overlap: of neighbors in layer 1, as a share of the shorter side; half of that in the next one, and so on.

    >>> [crop.box for crop in crop_windows((100, 200), layers=1, overlap=0.2)]
    [(0, 0, 200, 100), (0, 0, 110, 60), (0, 40, 110, 100), (90, 0, 200, 60), (90, 40, 200, 100)]
    """
    height, width = size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        num = 2**layer
        common = int(overlap * min(height, width) * (2 / num))
        across, down = (math.ceil((common * (num - 1) + length) / num) for length in (width, height))
        for x in (int((across - common) * i) for i in range(num)):
            for y in (int((down - common) * i) for i in range(num)):
                crops.append(Crop((x, y, min(x + across, width), min(y + down, height)), layer))
    return crops


def near_crop_edge(boxes: Boxes, crop: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which objects a crop has probably cut: those that touch a side of it that is no side of the image.

    Args:
        boxes: (N, 4) in pixels of the crop; size: (height, width) of the image.

    >>> boxes = np.array([[40, 40, 60, 60], [80, 40, 100, 60]])
    >>> near_crop_edge(boxes, (0, 0, 100, 100), (100, 200)).tolist()  # the right side is no side of the image
    [False, True]
    """
    x, y = crop[:2]
    moved = boxes + np.array([x, y, x, y])
    at_crop = np.abs(moved - np.array(crop)) <= EDGE_TOLERANCE
    at_image = np.abs(moved - np.array([0, 0, size[1], size[0]])) <= EDGE_TOLERANCE
    found: NDArray[np.bool_] = (at_crop & ~at_image).any(axis=1)
    return found


def without_small_regions(mask: NDArray[Any], least: int, holes: bool) -> tuple[NDArray[np.bool_], bool]:
    """A mask (H, W) without holes, or else islands, of fewer than ``least`` pixels; and whether that changed it.

    Regions hang together over corners too. Where all islands are too small the largest stays.

    >>> mask = np.array([[1, 1, 1, 0, 0, 1], [1, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]])
    >>> without_small_regions(mask, 2, holes=True)[0].astype(int).tolist()
    [[1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    >>> without_small_regions(mask, 2, holes=False)[0].astype(int).tolist()
    [[1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    """
    working = (mask.astype(bool) ^ holes).astype(np.uint8)
    num, regions, stats, _ = cv2.connectedComponentsWithStats(working, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    small = areas < least
    if not small.any():
        return mask.astype(bool), False
    filled = np.zeros(num, bool)
    if holes:
        filled[0], filled[1:] = True, small
    else:
        filled[1:] = ~small
        if small.all():
            filled[1 + int(areas.argmax())] = True
    return filled[regions], True
