"""Images as JPEG: for pages, overlays and thumbnails."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures import UserError


def jpeg(image: NDArray[np.uint8], quality: int = 82) -> bytes:
    """(H, W, 3) RGB -> a file's bytes.

    Raises:
        UserError: it is larger than a JPEG can be, about 65,500 px a side.
    """
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise UserError(f"an image of {image.shape[1]} x {image.shape[0]} pixels cannot be a JPEG")
    return data.tobytes()


def jpeg_text(image: NDArray[np.uint8], quality: int = 82) -> str:
    """The same as base64."""
    return base64.b64encode(jpeg(image, quality)).decode("ascii")


def reduced(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image whose longer side is at most ``side``, px."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
