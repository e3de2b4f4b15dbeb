"""Lines between regions."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray


def line_width(shape: tuple[int, ...], crowd: bool) -> int:
    """Outline width for an image of this size: 1 px per 500 (crowds: per 1,500) of its mean side."""
    side = math.sqrt(shape[0] * shape[1])
    return max(1, round(side / (1500 if crowd else 500)))


def edges(labels: NDArray[np.int32], thickness: int) -> NDArray[np.bool_]:
    """Pixels of objects that touch another object or the background, ``thickness`` px deep."""
    edge = np.zeros(labels.shape, bool)
    if thickness < 1:
        return edge
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if thickness > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness - 1,) * 2)
        edge = cv2.dilate(edge.view(np.uint8), kernel) > 0
    return edge
