"""TIFF pages: every bit depth, every page, with the decoder that can.

8-bit pages of any compression go to Pillow, deeper ones to tifffile (exact for every layout, but only
for the compressions that need no extra package) and else to OpenCV.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.images import read
from eachmask.data.images.tiff_layout import Layout, directory, layout, tag
from eachmask.structures import UserError

# What is wrong with a file is said in our one sentence, not in the decoder's log.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_DATA = 0
"""In tag 338: a channel of unspecified meaning; 1 and 2 are transparency."""


def read_tiff_page(
    path: Path, page: int, max_pixels: int, upright: bool, channels: tuple[int, ...] = ()
) -> NDArray[Any]:
    """Page ``page`` (from 1) as (H, W, 3); see :func:`eachmask.data.images.read.read_image`."""
    found = layout(path)
    groups = found.channels if channels else ()
    number = len(groups) + found.is_cut_off if groups else found.num_pages
    if not 1 <= page <= number:
        raise UserError(f"{path} has no page {page}: its pages are 1 to {number}")
    if page == number and found.is_cut_off:
        raise UserError(f"{path} is cut off: page {page} and what follows it are missing, copy the file again")
    if not groups:
        return _read(path, found, page, max_pixels, upright, channels)
    pages = [groups[page - 1][i] for i in read.channel_indices(channels, len(groups[0]))]
    return read.as_array(np.stack([_read(path, found, p, max_pixels, upright)[..., 0] for p in pages], -1))


def channels_to_choose(path: Path) -> int:
    """See :func:`eachmask.data.images.read.num_channels`."""
    import tifffile

    found = layout(path)
    if found.channels:
        return len(found.channels[0])
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        header = directory(tiff, found, found.images[0])
        samples: int = header.samplesperpixel
        plain = samples in (1, 3) or (samples in (2, 4) and len(header.extrasamples) and not _has_data(header))
        inks = samples == 4 and int(header.photometric) == 5
        return 0 if plain or inks else samples


def stored_values(path: Path) -> NDArray[Any]:
    """The values of the first page as they are in the file, of a palette the numbers: (H, W) or (H, W, channels).

    Raises:
        UserError: it is damaged, or compressed in a way that cannot be decoded.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            header: Any = tiff.pages[0]
            try:
                pixels = header.asarray()
                return np.moveaxis(pixels, 0, -1) if header.axes.startswith("S") else pixels
            except _NEEDS_A_PACKAGE:
                if _is_unknown(header) or header.bitspersample > 32:
                    raise _needs_a_package(path, header) from None
        with read.open_with_pillow(path) as image:
            return np.asarray(image)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged and cannot be decoded ({error})") from None


def _read(
    path: Path, found: Layout, page: int, max_pixels: int, upright: bool, channels: tuple[int, ...] = ()
) -> NDArray[Any]:
    import tifffile

    image, plane = divmod(page - 1, found.planes)
    index = found.images[image]
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        header = directory(tiff, found, index)
        read.check_pixels(path, header.imagewidth, header.imagelength, max_pixels)
        orientation = tag(header, 274, 1) if upright else 1
        if channels and (header.samplesperpixel > 1 or _is_plain(header)):
            return read.orient(_samples(path, header, channels), orientation)
        read.channel_indices(channels or (1,), header.samplesperpixel)
        _check_channels(path, header)
        if found.planes > 1:
            return read.orient(_arrange(header, _plane(path, tiff, header, plane)), orientation)
        unknown = _is_unknown(header)
        if header.bitspersample > 8 or header.planarconfig == 2 or unknown or _is_signed(header):
            try:
                return read.orient(_arrange(header, header.asarray()), orientation)
            except _NEEDS_A_PACKAGE as error:
                if unknown:
                    raise _needs_a_package(path, header) from None
                if isinstance(error, ValueError) and "requires" not in str(error):
                    raise
    if header.bitspersample <= 8:
        return _with_pillow(path, found, index, upright)
    return _deep(path, found, index, header, upright)


_UNKNOWN = (33003, 33004, 33005, 34712, 34887, 50001, 50002, 52546)
"""Compressions that neither Pillow nor OpenCV decodes: JPEG 2000, LERC, WebP and JPEG XL."""
_NEEDS_A_PACKAGE = (ValueError, NotImplementedError, ImportError)
"""What tifffile raises where a compression or a depth needs an extra package."""


def _is_unknown(header: Any) -> bool:
    """Whether only tifffile may read it; the others would write to the standard error what they lack."""
    return int(header.compression) in _UNKNOWN or header.bitspersample in (3, 5, 6, 7)


def _is_signed(header: Any) -> bool:
    return header.dtype is not None and header.dtype.kind == "i"


def _needs_a_package(path: Path, header: Any) -> UserError:
    name = getattr(header.compression, "name", header.compression)
    return UserError(
        f"{path} is compressed in a way that cannot be decoded here ({name}, {header.bitspersample} bits): install "
        "imagecodecs, or save it without compression"
    )


def _is_plain(header: Any) -> bool:
    """Whether tifffile reads it without an extra package, whatever is in it."""
    return int(header.compression) == 1 and header.bitspersample in (8, 16, 32)


def _samples(path: Path, header: Any, channels: tuple[int, ...]) -> NDArray[Any]:
    """The chosen channels of a page, as (H, W, 3)."""
    indices = read.channel_indices(channels, header.samplesperpixel)
    try:
        pixels = header.asarray()
    except _NEEDS_A_PACKAGE:
        raise UserError(
            f"{path} is compressed in a way that channels cannot be chosen of: install imagecodecs, or save it without "
            "compression"
        ) from None
    if header.samplesperpixel == 1:
        pixels = pixels[..., None]
    elif header.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    return read.as_array(np.ascontiguousarray(pixels[..., indices]))


def _plane(path: Path, tiff: Any, header: Any, plane: int) -> NDArray[Any]:
    """One of the images that ImageJ has written behind one directory."""
    kind = np.dtype(tiff.byteorder + header.dtype.char)
    number = int(np.prod(header.shape))
    begin = header.dataoffsets[0] + plane * number * kind.itemsize
    if begin + number * kind.itemsize > tiff.filehandle.size:
        raise UserError(f"{path} is cut off: page {plane + 1} and what follows it are missing, copy the file again")
    return np.fromfile(path, kind, number, offset=begin).reshape(header.shape)


def _check_channels(path: Path, header: Any) -> None:
    samples, extra = header.samplesperpixel, len(header.extrasamples)
    several_grays = int(header.photometric) in (0, 1) and _has_data(header) and samples != 3
    if samples not in (1, 2, 3, 4) or (samples == 2 and not extra) or several_grays:
        raise UserError(
            f"{path} has {samples} channels, but gray or RGB, with or without transparency, can be read: choose with "
            "--channel, or save those to look at"
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


def _with_pillow(path: Path, found: Layout, index: int, upright: bool) -> NDArray[Any]:
    with read.without_pillow_limit, Image.open(path) as image:  # a page is checked while it is loaded too
        _seek(image, found, index)
        orientation = image.getexif().get(274, 1)
        image.load()  # Pillow turns TIFFs upright by itself while loading
        pixels = read.as_array(image)
    return pixels if upright else read.orient(pixels, _inverse(orientation))


_NEXT = "_TiffImageFile__next"
"""Where Pillow remembers the offset of the next directory."""


def _seek(image: Any, found: Layout, index: int) -> None:
    """To a page, without Pillow's walk over all before it where it can be told where that is."""
    if index and hasattr(image, _NEXT):
        setattr(image, _NEXT, found.offsets[index])
        index = 1  # for Pillow it is the one behind the first
    image.seek(index)


def _deep(path: Path, found: Layout, index: int, header: Any, upright: bool) -> NDArray[Any]:
    """More than 8 bits, in a way that tifffile cannot read on its own: gray by Pillow, the rest by OpenCV."""
    stored = tag(header, 274, 1)
    if header.samplesperpixel == 1 and header.dtype is not None and header.dtype.kind == "u":
        try:
            pixels = _with_pillow(path, found, index, upright)
            bits = header.bitspersample
            return pixels << np.uint16(16 - bits) if pixels.dtype == np.uint16 and bits < 16 else pixels
        except Exception:  # a depth, or an order of bytes, that it does not know
            pass
    try:
        return _with_opencv(path, index, stored if upright else 1, stored)
    except UserError:
        raise _needs_a_package(path, header) from None


def _with_opencv(path: Path, index: int, requested: int, stored: int) -> NDArray[Any]:
    ok, pages = cv2.imreadmulti(str(path), index, 1, flags=cv2.IMREAD_UNCHANGED)
    if not ok or not pages:
        raise UserError(f"{path} is damaged or compressed in a way that cannot be decoded (page {index + 1})")
    pixels = read.as_array(read.bgr_to_rgb(np.asarray(pages[0])))
    # OpenCV has turned the page upright.
    return pixels if requested == stored else read.orient(pixels, _inverse(stored))


def _inverse(orientation: int) -> int:
    """The orientation that undoes one."""
    return {6: 8, 8: 6}.get(orientation, orientation)
