"""Images at http(s) addresses. Only who asks for a URL gets one: nothing that serves others may pass theirs on here."""

from __future__ import annotations

import hashlib
import tempfile
import time
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib import request
from urllib.parse import unquote, urlsplit

from numpy.typing import NDArray

from eachmask.data.images.read import read_image
from eachmask.files.atomic import atomic_bytes
from eachmask.structures import UserError

MAX_BYTES = 50_000_000
"""Larger files are refused, whatever their server says of their size."""
TIMEOUT = 30.0
"""Seconds for all of a file."""
_CHUNK_SIZE = 1 << 16


def is_url(text: object) -> bool:
    """Whether a text is an http(s) address."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def fetch(url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> bytes:
    """The content of an http(s) address.

    Raises:
        UserError: it cannot be had, is larger or takes longer; the sentence names the address.
    """
    if not is_url(url):
        raise UserError(f"{url} is no http or https address")
    end = time.monotonic() + timeout
    content = bytearray()
    try:
        with _opener().open(request.Request(url, headers={"User-Agent": "eachmask"}), timeout=timeout) as answer:
            while chunk := answer.read1(_CHUNK_SIZE):
                content += chunk
                if len(content) > max_bytes:
                    raise UserError(f"{url} is larger than {max_bytes / 1e6:,.0f} MB: download it and name the file")
                if time.monotonic() > end:
                    raise TimeoutError
    except TimeoutError:
        raise UserError(f"{url} did not come within {timeout:g} seconds: download it and name the file") from None
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"{url} cannot be fetched ({getattr(error, 'reason', '') or error})") from None
    return bytes(content)


def read_url(url: str) -> NDArray[Any]:
    """The image at an address, as :func:`~eachmask.data.images.read.read_image` reads a file.

    Raises:
        UserError: it cannot be had, or is no image.
    """
    with tempfile.TemporaryDirectory() as folder:
        return read_image(stored(url, Path(folder)))


def stored(url: str, folder: Path) -> Path:
    """The file of an address below ``folder``, fetched if it is not there.

    Raises:
        UserError: it cannot be had.
    """
    path = place(url, folder)
    if not path.is_file():
        content = fetch(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_bytes(path, path.with_name(path.name + ".part")) as handle:
            handle.write(content)
    return path


def place(url: str, folder: Path) -> Path:
    """Where :func:`stored` keeps it: under its own name, in a folder of its own."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name.replace("\0", "").strip(". ")[-100:] or "image"
    return folder / hashlib.sha256(url.encode()).hexdigest()[:12] / name


def _opener() -> request.OpenerDirector:
    """http and https alone, also after a redirection: urllib's own would follow one to ftp."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler,
        request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
