"""Images of any type as bytes for the eye."""

from __future__ import annotations

import base64
import io
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eachmask.draw.options import RGBImage
from eachmask.structures import Preprocess, Spatial, UserError
from eachmask.structures.checks import kind_of

S = TypeVar("S", bound=Spatial)


def to_display(image: NDArray[Any], stretch: bool | None = None) -> RGBImage:
    """(H, W, 3) of any type -> a new uint8 array for the eye; see ``DrawOptions.stretch``."""
    deep = image.dtype != np.uint8
    if stretch is False:
        top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
        return image.copy() if not deep else _scaled(image, 0.0, float(top))
    low, high = Preprocess(contrast="percentile").limits(image)
    if stretch is None and not deep and high >= 64:
        return image.copy()
    if high <= low:  # a constant image has no contrast to stretch
        low, high = 0.0, max(float(high), 1.0)
    return _scaled(image, low, high)


def _scaled(image: NDArray[Any], low: float, high: float) -> RGBImage:
    """Values low..high -> 0..255; integers through a table, floats in bands."""
    factor = 255.0 / (high - low)
    if image.dtype.kind == "u":
        values = np.arange(np.iinfo(image.dtype).max + 1)
        table = np.clip(np.rint((values - low) * factor), 0, 255).astype(np.uint8)
        return np.asarray(table[image])
    result = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), 256):
        band = np.nan_to_num(image[top : top + 256].astype(np.float32))
        result[top : top + 256] = np.clip(np.rint((band - low) * factor), 0, 255)
    return result


def shrink(image: NDArray[Any], result: S, max_side: int) -> tuple[NDArray[Any], S]:
    """Image and what lies on it scaled down together so that the longer side is at most ``max_side`` px."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image, result
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), result.resize(size)


def jpeg_source(image: RGBImage, quality: int = 82) -> str:
    """An image (H, W, 3) as the ``src`` of an HTML image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def check_size(image: NDArray[Any], result: Spatial) -> None:
    """Raises UserError where a result is not of this image."""
    if image.shape[:2] != result.image_size:
        what = kind_of(result).lower()
        raise UserError(f"an image of {image.shape[:2]} for {what} on {result.image_size} (height, width)")
