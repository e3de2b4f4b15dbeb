"""TIFF pages: every bit depth, every page, with the decoder that can.

8-bit pages of any compression go to Pillow, deeper ones to tifffile (exact for every layout, but only
for the compressions that need no extra package) and else to OpenCV.
"""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.images import read
from eachmask.structures import UserError

# What is wrong with a file is said in our one sentence, not in the decoder's log.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_REDUCED, _MASK = 1, 4
"""Bits of tag 254: a smaller copy of another page, a transparency mask."""
_DATA = 0
"""In tag 338: a channel of unspecified meaning; 1 and 2 are transparency."""


def page_indices(path: Path) -> list[int]:
    """Directory numbers (from 0) of the images in a file, without thumbnails, pyramid levels and masks.

    A file that was cut off has one more, the first directory that is missing, so that its loss is noticed.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if not len(tiff.pages):
            raise UserError(f"{path} is damaged: its TIFF directory cannot be found")
        kinds = [_tag(page, 254, 0) for page in tiff.pages]
        kept = [i for i, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)]
        missing = [len(kinds)] if _is_cut_off(tiff) else []
        return (kept or list(range(len(kinds)))) + missing


def read_tiff_page(path: Path, page: int, max_pixels: int, upright: bool) -> NDArray[Any]:
    """Page ``page`` (from 1) as (H, W, 3); see :func:`eachmask.data.images.read.read_image`."""
    import tifffile

    indices = page_indices(path)
    if not 1 <= page <= len(indices):
        raise UserError(f"{path} has no page {page}: its pages are 1 to {len(indices)}")
    index = indices[page - 1]
    with tifffile.TiffFile(path) as tiff:
        if index == len(tiff.pages):
            raise UserError(f"{path} is cut off: page {page} and what follows it are missing, copy the file again")
        header: Any = tiff.pages[index]
        read.check_pixels(path, header.imagewidth, header.imagelength, max_pixels)
        orientation = _tag(header, 274, 1) if upright else 1
        _check_channels(path, header)
        if header.bitspersample > 8 or header.planarconfig == 2:
            try:
                return read.orient(_arrange(header, header.asarray()), orientation)
            except ValueError as error:
                if "requires" not in str(error):  # a compression that needs an extra package
                    raise
    if header.bitspersample <= 8:
        return _with_pillow(path, index, upright)
    return _with_opencv(path, index, orientation, _tag(header, 274, 1))


def _is_cut_off(tiff: Any) -> bool:
    """Whether the last directory that is there names a next one, behind the file's end."""
    handle = tiff.filehandle
    handle.seek(tiff.pages.next_page_offset)
    data = handle.read(tiff.tiff.offsetsize)
    return len(data) == tiff.tiff.offsetsize and bool(struct.unpack(tiff.tiff.offsetformat, data)[0] >= handle.size)


def _check_channels(path: Path, header: Any) -> None:
    samples, extra = header.samplesperpixel, len(header.extrasamples)
    several_grays = int(header.photometric) in (0, 1) and _has_data(header) and samples != 3
    if samples not in (1, 2, 3, 4) or (samples == 2 and not extra) or several_grays:
        raise UserError(
            f"{path} has {samples} channels, but gray or RGB, with or without transparency, can be read: save those to "
            "look at"
        )


def _has_data(header: Any) -> bool:
    """Whether a channel is neither color nor transparency but, say, near infrared or another dye."""
    return any(int(kind) == _DATA for kind in header.extrasamples)


def _arrange(header: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """tifffile's array -> (H, W, 3), the photometric interpretation undone."""
    if header.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    photometric = int(header.photometric)
    if photometric == 2 and _has_data(header):
        pixels = pixels[..., :3]
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # gray and alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    if photometric == 0 and pixels.dtype.kind == "u":  # white is zero
        pixels = np.iinfo(pixels.dtype).max - pixels
    if photometric == 3 and header.colormap is not None:
        pixels = np.moveaxis(header.colormap, 0, -1)[pixels]
    if photometric == 5 and pixels.ndim == 3 and pixels.shape[2] == 4:  # inks
        top = np.iinfo(pixels.dtype).max
        ink, black = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32)
        pixels = np.rint((top - ink) * ((top - black) / top)).astype(pixels.dtype)
    return read.as_array(pixels)


def _with_pillow(path: Path, index: int, upright: bool) -> NDArray[Any]:
    with read.open_with_pillow(path) as image:
        image.seek(index)
        orientation = image.getexif().get(274, 1)
        image.load()  # Pillow turns TIFFs upright by itself while loading
        pixels = read.as_array(image)
    return pixels if upright else read.orient(pixels, _inverse(orientation))


def _with_opencv(path: Path, index: int, wanted: int, stored: int) -> NDArray[Any]:
    ok, pages = cv2.imreadmulti(str(path), index, 1, flags=cv2.IMREAD_UNCHANGED)
    if not ok or not pages:
        raise UserError(f"{path} is damaged or compressed in a way that cannot be decoded (page {index + 1})")
    pixels = read.as_array(read.bgr_to_rgb(np.asarray(pages[0])))
    # OpenCV has turned the page upright.
    return pixels if wanted == stored else read.orient(pixels, _inverse(stored))


def _inverse(orientation: int) -> int:
    """The orientation that undoes one."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def _tag(page: Any, code: int, default: int) -> int:
    tags = getattr(page, "tags", None)  # the frames of a series share their first page's tags
    tag = tags.get(code) if tags is not None else None
    return default if tag is None else int(tag.value)
