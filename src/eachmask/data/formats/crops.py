"""Crops: every object cut out of its image, the background transparent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.files.png import png
from eachmask.structures import Instances, UserError


def crops(instances: Instances, image: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """File names and PNG bytes (RGBA; 16-bit where the image is), one per object that has pixels.

    Names hold the object's number, as in the table and the label map, and its class: ``0007_nucleus.png``.

    Raises:
        UserError: there are no masks to cut along.
    """
    if instances.masks is None:
        raise UserError("crops need masks, and this model finds boxes only")
    bitmaps = instances.masks.to_bitmaps()
    for i, (crop, (x, y), label) in enumerate(
        zip(bitmaps.crops, bitmaps.origins.tolist(), instances.label_names, strict=True)
    ):
        if crop.any():
            window = image[y : y + crop.shape[0], x : x + crop.shape[1]]
            yield f"{i + 1:04d}_{file_safe(label)}.png", _encode(window, crop)


def file_safe(name: str) -> str:
    """Letters, digits, dots and dashes of a name, the rest as underscores; at most 60 of them."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[:60] or "object"


def _encode(window: NDArray[Any], crop: NDArray[np.bool_]) -> bytes:
    if window.dtype.kind == "f":  # PNG has no floats: the crop's own range becomes 16 bits
        low, high = float(window[crop].min()), float(window[crop].max())
        window = np.clip((window - low) / ((high - low) or 1) * 65535, 0, 65535).astype(np.uint16)
    alpha = crop.astype(window.dtype) * np.iinfo(window.dtype).max
    return png(np.dstack([window, alpha]))
