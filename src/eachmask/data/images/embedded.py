"""Images inside annotation files: LabelMe's ``imageData``, base64 of a PNG or JPEG, where no file lies beside it."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from eachmask.data.images import read
from eachmask.files.json_text import read_json_file
from eachmask.structures import UserError

SUFFIX = ".json"
FIELD = "imageData"
_JPEG = "/9j/"
"""The first bytes of every JPEG, in base64."""


def is_embedded(path: Path) -> bool:
    """Whether a path means the image inside a file of annotations."""
    return path.suffix.lower() == SUFFIX


def suffix_of(data: str) -> str:
    """What a file of these pixels is called."""
    return ".jpg" if data.startswith(_JPEG) else ".png"


def image_bytes(path: Path) -> bytes:
    """The image file that is inside.

    Raises:
        UserError: there is none, or it is no base64.
    """
    content = read_json_file(path)
    data = content.get(FIELD) if isinstance(content, dict) else None
    if not data or not isinstance(data, str):
        raise UserError(f"{path} has no image in it ({FIELD}): put the image beside it")
    try:
        return base64.b64decode(data, validate=False)
    except (binascii.Error, ValueError):
        raise UserError(f"{path} has an image in it ({FIELD}) that is no base64: save it anew in LabelMe") from None


def read_embedded(path: Path, max_pixels: int, upright: bool) -> NDArray[Any]:
    """The image inside, as :func:`eachmask.data.images.read.read_image` gives it."""
    with read.without_pillow_limit, Image.open(io.BytesIO(image_bytes(path))) as image:
        read.check_pixels(path, *image.size, max_pixels)
        image.load()
        return read.from_pillow(image, upright)
