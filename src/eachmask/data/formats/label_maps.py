"""Label maps: one integer per pixel, 0 for background, i + 1 for the i-th object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eachmask.structures import Masks, UserError

_MAX_IN_PNG = 65535


def label_map_suffix(num_objects: int) -> str:
    """``.png`` (16-bit) as long as the numbers fit, else ``.tif`` (32-bit)."""
    return ".png" if num_objects <= _MAX_IN_PNG else ".tif"


def encode_label_map(masks: Masks) -> tuple[bytes, int]:
    """Masks -> the bytes of a 16-bit PNG (32-bit TIFF beyond 65,535 objects), and how many objects it lacks.

    Where masks overlap the earlier one keeps the pixel; an object that is covered altogether is missing.
    """
    labels = masks.to_label_map()
    suffix = label_map_suffix(len(masks))
    pixels = labels.astype(np.uint16) if suffix == ".png" else labels
    ok, data = cv2.imencode(suffix, pixels)
    if not ok:
        raise UserError(f"a label map of {labels.shape[1]} x {labels.shape[0]} pixels cannot be written")
    return bytes(data), len(masks) - int(np.count_nonzero(np.bincount(labels.ravel(), minlength=len(masks) + 1)[1:]))


def write_label_map(path: str | Path, masks: Masks) -> None:
    """Write masks to ``path``, whose suffix must be the one of :func:`label_map_suffix`."""
    Path(path).write_bytes(encode_label_map(masks)[0])


def numbers_in(path: Path) -> NDArray[Any]:
    """(H, W) whole numbers of a label map; a UserError where it is none."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    labels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if labels is None:
        raise UserError(f"{path} is not an image that can be decoded")
    if labels.ndim == 3 and path.suffix.lower() == ".png":
        labels = _indices(path, labels)
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise UserError(f"{path} is no label map: it must have one channel of whole numbers")
    return np.asarray(labels)


def _indices(path: Path, colors: NDArray[Any]) -> NDArray[Any]:
    """The numbers of a PNG with a palette, as they are in the file; of another the pixels as they were decoded."""
    with Image.open(path) as image:
        return np.asarray(image) if image.mode == "P" else colors
