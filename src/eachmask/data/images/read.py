"""Any image -> (H, W, 3) RGB array: files of the common formats, and arrays, tensors, PIL images.

Rules, the same for files and for what the API is handed:

* 16-bit images stay 16-bit; gray becomes three equal channels; palettes, CMYK and bilevel become RGB.
* Transparency is composited on white, as a viewer shows it (a wholly transparent image keeps its
  colors: there the alpha channel means nothing).
* EXIF orientation is applied once.
* Of animations the first frame is read (:mod:`eachmask.data.images.clip` reads all);
  of a multi-page TIFF any page (``pages``, counted from 1).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from eachmask.data.images.kinds import HEAD, other_kind
from eachmask.data.images.png import check_rows
from eachmask.structures import UserError
from eachmask.structures.checks import kind_of

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

MAX_PIXELS = 250_000_000
"""Larger images are refused unless the caller says otherwise: 250 megapixels are 750 MB of RGB."""

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .jp2 .avif .heic .heif".split()
)
"""What a folder is searched for; files of other names are recognized by their first bytes."""

_MAGIC = (
    b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  ", b"P4\n", b"P5\n", b"P6\n",
)  # fmt: skip
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BAND = 1024
"""Rows that are converted at a time."""


def read_image(
    path: str | Path,
    *,
    page: int = 1,
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    channels: tuple[int, ...] = (),
) -> Array:
    """Read an image file.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF or whatever else Pillow reads.
        page: of a multi-page TIFF, from 1.
        max_pixels: refuse larger images before decoding them (decompression bombs).
        upright: apply the EXIF orientation; False gives the pixels as they are stored.
        channels: one (seen as gray) or three (seen as red, green and blue) of the file's channels, from 1; a file of
            OME or ImageJ has its channels in pages, which are joined then. () is the image as it is.

    Returns:
        (H, W, 3) RGB, uint8 or uint16; float32 as stored for TIFFs of floats or wide integers.

    Raises:
        UserError: one sentence that names the file and says what is wrong with it.
    """
    path = Path(path)
    head = _head(path)
    if other := other_kind(head):
        raise UserError(f"{path} {other}")
    try:
        if head.startswith(_TIFF_MAGIC):
            from eachmask.data.images.tiff import read_tiff_page

            return read_tiff_page(path, page, max_pixels, upright, channels)
        if page != 1:
            raise UserError(f"{path} has no page {page}: only TIFF files have pages")
        if is_heic(head):
            _learn_heic(path)
        if path.suffix.lower() == ".json":  # LabelMe's, with the image inside
            from eachmask.data.images.embedded import read_embedded

            image = read_embedded(path, max_pixels, upright)
        else:
            image = _read_with_pillow(path, head, max_pixels, upright)
        return as_array(image[..., channel_indices(channels, 3)]) if channels else image
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from None  # what arrays are told too, who have no name
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image in a known format, or its header is damaged") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: reduce it or cut it into parts") from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error ...
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise UserError(f"{path} is damaged and cannot be decoded ({reason})") from None


def is_tiff(path: str | Path) -> bool:
    """Whether the file begins as a TIFF does, whatever its suffix.

    Raises:
        UserError: it cannot be opened.
    """
    return _head(Path(path)).startswith(_TIFF_MAGIC)


def num_pages(path: str | Path, channels: tuple[int, ...] = ()) -> int:
    """How many images a file holds: the pages of a TIFF without thumbnails and masks, else 1. Where ``channels`` are
    chosen, pages that are channels of one image are one.

    A file that cannot be read counts as one; reading it will tell why.
    """
    try:
        with open(path, "rb") as handle:
            if not handle.read(4).startswith(_TIFF_MAGIC):
                return 1
        from eachmask.data.images.tiff_layout import layout

        found = layout(Path(path))
        return max(1, len(found.channels) + found.is_cut_off if channels and found.channels else found.num_pages)
    except Exception:  # a broken header has no pages; reading it will name the reason
        return 1


def is_animation(path: str | Path) -> bool:
    """Whether a GIF, WebP or PNG has more than one frame; not where it cannot be read, which reading it will tell."""
    try:
        head = _head(Path(path))
        if not (head.startswith(b"GIF8") or head[8:12] == b"WEBP" or (head.startswith(b"\x89PNG") and b"acTL" in head)):
            return False
        with open_with_pillow(Path(path)) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # decoders raise whatever they like
        return False


def num_channels(path: str | Path) -> int:
    """How many channels a file has that have to be chosen from (dyes of a microscope, bands of a satellite); 0 where
    it is seen as it is: gray, or colors, with or without transparency.

    A file that cannot be read has 0; reading it will tell why.
    """
    try:
        if not is_tiff(path):
            return 0
        from eachmask.data.images.tiff import channels_to_choose

        return channels_to_choose(Path(path))
    except Exception:
        return 0


def looks_like_image(path: Path) -> bool:
    """By its name, or else by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():  # a pipe would never be opened
            return False
        with open(path, "rb") as handle:
            head = handle.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or is_heic(head) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def channel_indices(channels: tuple[int, ...], number: int) -> list[int]:
    """Channels (from 1) as indices.

    Raises:
        UserError: not one or three, or there are not so many.
    """
    if len(channels) not in (1, 3):
        raise UserError(f"choose one channel, or three as red, green and blue, not {len(channels)}")
    for channel in channels:
        if not 1 <= channel <= number:
            raise UserError(f"the image has no channel {channel}: its channels are 1 to {number}")
    return [channel - 1 for channel in channels]


def is_heic(head: bytes) -> bool:
    """Whether a file that begins so is a HEIC photograph, as phones take them."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC and b"avif" not in head[:32]


def _learn_heic(path: Path) -> None:
    """Teach Pillow to read HEIC, where the package for it is there."""
    try:
        import pillow_heif
    except ImportError:
        raise UserError(
            f"{path} is a HEIC image, which needs an extra package: pip install 'eachmask[heic]', or save it as JPEG"
        ) from None
    pillow_heif.register_heif_opener()


def as_array(image: Array | Tensor | Image.Image) -> Array:
    """What the API is handed -> (H, W, 3) RGB.

    Args:
        image: array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); tensor (H, W) or (C, H, W) with C of 1, 3
            or 4; or a PIL image. Integers of 8 or 16 bits, bool, or floats (0..1).

    Raises:
        UserError: any other shape or type, or no pixels; the sentence names the remedy.
    """
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if hasattr(image, "detach") and hasattr(image, "ndim"):
        return _to_rgb(_pixels_of_tensor(image))
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image must be a path, a numpy array, a torch tensor or a PIL image, not {kind_of(image)}")
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
        raise UserError(
            f"the array of shape {image.shape} has its channels first: pass image.transpose(1, 2, 0) or a torch tensor"
        )
    return _to_rgb(image)


def unit_range(image: Array) -> Array:
    """Floats beyond 0..1 stretched so that their smallest value is 0 and their largest 1; the rest as it is.

    Files of floats come in any unit (counts, meters, reflectance); networks know only 0..1.
    """
    if image.dtype.kind != "f" or not image.size:
        return image
    finite = np.isfinite(image)
    if not finite.all():
        image = np.where(finite, image, image[finite].min() if finite.any() else 0)
    low, high = float(image.min()), float(image.max())
    if 0 <= low and high <= 1:
        return image
    return ((image - low) / ((high - low) or 1.0)).astype(np.float32)


def check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raises UserError where an image is too large, before anything is decoded."""
    if width < 1 or height < 1:
        raise UserError(f"{path} has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise UserError(
            f"{path} has {width} x {height} = {width * height / 1e6:,.0f} megapixels, more than the limit of "
            f"{max_pixels / 1e6:,.0f}: if it is no decompression bomb, raise --max-pixels"
        )


def orient(image: Array, orientation: int) -> Array:
    """Turn and mirror stored pixels as EXIF orientation 1..8 says (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _head(path: Path) -> bytes:
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise UserError(f"{path} is no file but a pipe, a socket or a device")
        with open(path, "rb") as handle:
            head = handle.read(HEAD)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not an image") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    if not head:
        raise UserError(f"{path} is empty (0 bytes)")
    return head


def open_with_pillow(path: Path) -> Image.Image:
    """``Image.open`` without Pillow's own size limit, which is lower than ours and global."""
    with without_pillow_limit:
        return Image.open(path)


class _PillowLimit:
    """Pillow's own size limit, which is global, set aside as long as at least one thread is in the block."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


without_pillow_limit = _PillowLimit()


def _read_with_pillow(path: Path, head: bytes, max_pixels: int, upright: bool) -> Array:
    with without_pillow_limit, Image.open(path) as image:
        check_pixels(path, *image.size, max_pixels)
        image.load()  # raises where the file is cut off
        if head.startswith(b"\x89PNG"):
            check_rows(path, image)
        if head.startswith(b"\x89PNG") and head[24] == 16 and head[25] in (2, 4, 6):
            # Pillow gives only 8 of the 16 bits of color PNGs.
            return _read_deep_png(path, image.getexif().get(274, 1) if upright else 1)
        pixels = from_pillow(image, upright)
    image.close()  # a with statement closes the file alone
    return pixels


def _read_deep_png(path: Path, orientation: int) -> Array:
    stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise UserError(f"{path} is damaged and cannot be decoded")
    return orient(_to_rgb(bgr_to_rgb(stored)), orientation)


def bgr_to_rgb(image: Array) -> Array:
    """OpenCV's channel order -> RGB(A); gray stays gray."""
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return image[..., [2, 1, 0, 3][: image.shape[2]]]
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(274, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block is no reason to refuse sound pixels
        return image


def from_pillow(image: Image.Image, upright: bool = True) -> Array:
    """Pillow's image -> (H, W, 3), turned by its EXIF orientation where ``upright``."""
    return _from_pillow(_upright(image) if upright else image)


def _from_pillow(image: Image.Image) -> Array:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _to_rgb(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _to_rgb(np.asarray(image.convert("RGBA")))
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "L":
        return _to_rgb(np.asarray(image))
    return _rgb_in_bands(image)


def _rgb_in_bands(image: Image.Image) -> Array:
    """Pillow keeps four bytes a pixel and copies to convert: all of a large image at once would be there thrice."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)).convert("RGB"))
    return pixels


def _to_rgb(pixels: Array) -> Array:
    """(H, W), (H, W, 1 | 3 | 4) of any number type -> (H, W, 3) contiguous."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise UserError(
            f"an image needs 1, 3 or 4 channels, (H, W), (H, W, 3) or (H, W, 4), but this one has the shape "
            f"{pixels.shape}: choose the channels to look at"
        )
    if not pixels.size:
        raise UserError(f"the image has no pixels (shape {pixels.shape})")
    pixels = _known_type(pixels)
    if pixels.shape[2] == 4:
        pixels = _on_white(pixels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _known_type(pixels: Array) -> Array:
    """uint8, uint16 or float32 (native byte order), values unchanged; bool becomes 0 and 255."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind in "ui":
        if pixels.dtype.itemsize <= 2 and pixels.dtype.kind == "u":
            return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        low, high = int(pixels.min()), int(pixels.max())
        if low >= 0 and high <= 65535:
            return pixels.astype(np.uint8 if high <= 255 and pixels.dtype.itemsize != 2 else np.uint16)
        return pixels.astype(np.float32)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    raise UserError(f"an image of type {pixels.dtype} cannot be read: convert it to uint8, uint16 or float32")


def _on_white(pixels: Array) -> Array:
    """(H, W, 4) -> (H, W, 3), row by row of blocks so that large images need no second float copy."""
    color, alpha = pixels[..., :3], pixels[..., 3]
    white = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    if not alpha.any() or alpha.min() >= white:
        return color
    result = np.empty(color.shape, pixels.dtype)
    for top in range(0, len(pixels), 256):
        rows = slice(top, top + 256)
        share = alpha[rows, :, None].astype(np.float32) / np.float32(white)
        blended = color[rows] * share + np.float32(white) * (1 - share)
        result[rows] = blended if pixels.dtype.kind == "f" else np.rint(blended)
    return result


def _pixels_of_tensor(image: Any) -> Array:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3, 4)):
        turned = image.ndim == 3 and image.shape[2] in (1, 3, 4)
        hint = "pass image.permute(2, 0, 1)" if turned else "choose 1, 3 or 4 channels of one image"
        raise UserError(f"a tensor must be (C, H, W) or (H, W), not {tuple(image.shape)}: {hint}")
    image = image.detach().cpu()
    if image.is_floating_point():
        image = image.float()
    pixels: Array = image.numpy()
    return pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0)
