"""Arrays as PNG files, to the last bit: maps, masks and cut-outs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def png(values: NDArray[Any]) -> bytes:
    """(H, W), (H, W, 3) RGB or (H, W, 4) RGBA of uint8 or uint16 -> a file's bytes.

    >>> png(np.zeros((2, 3), np.uint16))[1:4]
    b'PNG'
    """
    if values.ndim == 3:
        values = np.ascontiguousarray(values[..., [2, 1, 0, *range(3, values.shape[2])]])  # as OpenCV has colors
    return bytes(cv2.imencode(".png", values)[1])
