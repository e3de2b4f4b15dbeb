"""Label maps: one integer per pixel, 0 for background, i + 1 for the i-th object."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.images.kinds import HEAD, other_kind
from eachmask.data.images.read import is_tiff, num_pages
from eachmask.data.images.tiff import stored_values
from eachmask.structures import Masks, UserError

_MAX_IN_PNG = 65535
_JPEG = b"\xff\xd8\xff"
"""What such a file begins with."""
_JPEG_BLOCK = 16
"""Edges are blurred within so many px."""
_MOST_GRAY = 0.01
"""Share of the pixels away from edges that a mask in black and white may have between 0 and 255."""


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
    """(H, W) whole numbers of a label map; of a JPEG 0 and 255; a UserError where it is none."""
    labels = values_in(path)
    if labels.ndim == 3 and path.suffix.lower() == ".png":
        labels = _indices(path, labels)
    if _is_opaque(labels):
        labels = labels[..., :3]
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    labels = whole(labels)
    if is_jpeg(path):
        labels = _cut(labels, path)
    if labels.dtype.kind == "b":  # TIFF of one bit
        labels = labels.astype(np.uint8) * 255
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise UserError(f"{path} is no label map: {_instead(labels)}, and must have one channel of whole numbers")
    return np.asarray(labels)


def whole(labels: NDArray[Any]) -> NDArray[Any]:
    """Floats that are whole numbers from 0, as Fiji's plugins save them, as such; anything else as it is."""
    is_whole = labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)) and (labels >= 0).all()
    return labels.astype(np.int64) if is_whole else labels


def classes_in(path: Path) -> NDArray[Any]:
    """The same of a map of classes; a UserError where it is JPEG, under whatever name: 255 is not white there, but a
    pixel that does not count."""
    if _begins_as_jpeg(path):
        raise UserError(
            f"{path} is JPEG, which does not keep the numbers of classes: save it anew as PNG "
            "(a mask in black and white: cut at half, 255 where it is above 127)"
        )
    return numbers_in(path)


def black_and_white_in(path: Path) -> NDArray[Any]:
    """The same of what may be a mask in black and white: JPEG is cut at half where it was surely one."""
    if not _begins_as_jpeg(path):
        return numbers_in(path)
    gray = values_in(path)
    gray = gray.max(2) if gray.ndim == 3 else gray  # chroma is rounded too
    white = (gray > 127).astype(np.uint8)
    around = np.ones((2 * _JPEG_BLOCK + 1,) * 2, np.uint8)
    flat = gray[cv2.dilate(white, around) == cv2.erode(white, around)]
    slack = _rounding(path)
    if not flat.size or ((flat > slack) & (flat < 255 - slack)).mean() > _MOST_GRAY:
        return classes_in(path)
    return white * np.uint8(255)


def _rounding(path: Path) -> int:
    """By how much JPEG may have changed a block of 8 x 8 px of one value."""
    try:
        with Image.open(path) as image:
            return int(image.quantization[0][0] / 16 + 0.5)  # type: ignore[attr-defined]
    except (OSError, LookupError, AttributeError, Image.DecompressionBombError):
        return 0


def _begins_as_jpeg(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(_JPEG)) == _JPEG
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


def _instead(pixels: NDArray[Any]) -> str:
    """What a map has that is none."""
    if pixels.ndim == 3:
        colors = "it is painted in colors (number them; where each is a class, name them in label_colors.txt)"
        return colors if pixels.shape[2] in (3, 4) else f"it has {pixels.shape[2]} channels"
    odd = pixels[pixels != np.rint(pixels)] if pixels.dtype.kind == "f" else pixels[:0]
    return f"it has the value {odd[0]:g}" if odd.size else "it has other values"


def values_in(path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, channels) as they are stored, of any type; a UserError where it is no image, or of pages."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    if data.size and is_tiff(path):
        pages = num_pages(path)
        if pages > 1:
            raise UserError(
                f"{path} has {pages} pages, and a label map has one: save all objects in one, or each plane"
            )
        return stored_values(path)
    labels = decoded(data)
    if labels is None:
        raise UserError(f"{path} {other_kind(data[:HEAD].tobytes()) or 'is not an image that can be decoded'}")
    return labels


def decoded(data: NDArray[np.uint8]) -> NDArray[Any] | None:
    """The values of an encoded image as OpenCV orders them (B, G, R), or None; OpenCV 4 reads no GIF."""
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None and data[:3].tobytes() == b"GIF":
        with suppress(Exception):  # Pillow's decoders raise whatever they meet
            pixels = np.array(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))[..., ::-1]
    return None if pixels is None else np.asarray(pixels)


def _is_opaque(pixels: NDArray[Any]) -> bool:
    """Whether there is a channel of transparency that says nothing."""
    has_alpha = pixels.ndim == 3 and pixels.shape[2] == 4 and pixels.dtype.kind == "u"
    return has_alpha and bool((pixels[..., 3] == np.iinfo(pixels.dtype).max).all())


def is_jpeg(path: Path) -> bool:
    """Whether a file's suffix is that of JPEG, which blurs edges and changes values."""
    return path.suffix.lower() in (".jpg", ".jpeg")


def _cut(gray: NDArray[Any], path: Path) -> NDArray[Any]:
    """A mask of 0 and 255, cut at half.

    Raises:
        UserError: its values are none of a mask.
    """
    if gray.ndim == 3:
        gray = gray.max(2)  # chroma is rounded too
    if gray.any() and (gray.max() < 192 or ((gray > 64) & (gray < 192)).mean() > 0.1):
        raise UserError(f"{path} is JPEG, which does not keep the numbers of a label map")
    return np.where(gray > 127, 255, 0).astype(np.uint8)


def _indices(path: Path, colors: NDArray[Any]) -> NDArray[Any]:
    """The numbers of a PNG with a palette, as they are in the file; of another the pixels as they were decoded."""
    with Image.open(path) as image:
        return np.asarray(image) if image.mode == "P" else colors
