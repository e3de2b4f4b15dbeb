"""Where the images of a TIFF file lie: its directories, walked once, and which of them are channels of one image."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.structures import UserError

_REDUCED, _MASK = 1, 4
"""Bits of tag 254: a smaller copy of another page, a transparency mask."""


@dataclass(frozen=True)
class Layout:
    """The images of a file."""

    offsets: tuple[int, ...]
    """Of all directories, bytes."""
    images: tuple[int, ...]
    """Numbers of the directories (from 0) with images, without thumbnails, pyramid levels and masks."""
    is_cut_off: bool
    """The last directory names a next one, behind the file's end."""
    planes: int = 1
    """Images behind the only directory, one after the other, as ImageJ writes stacks that are large."""
    channels: tuple[tuple[int, ...], ...] = ()
    """For each position the pages (from 1) that are its channels; () where each page is an image of its own."""

    @property
    def num_pages(self) -> int:
        """A file that was cut off has one more, so that its loss is noticed."""
        return len(self.images) * self.planes + self.is_cut_off


def layout(path: Path) -> Layout:
    """Of a file, found once as long as it does not change.

    Raises:
        UserError: it has no directory.
    """
    status = os.stat(path)
    return _layout(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _layout(path: Path, size: int, modified: int) -> Layout:
    import tifffile

    del size, modified
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        if not len(tiff.pages):
            raise UserError(f"{path} is damaged: its TIFF directory cannot be found")
        pages = list(tiff.pages)
        kinds = [tag(page, 254, 0) for page in pages]
        kept = [i for i, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)] or list(range(len(pages)))
        planes = _planes(tiff) if len(pages) == 1 else 1
        channels = _channels(tiff, len(kept) * planes)
        return Layout(tuple(page.offset for page in pages), tuple(kept), _is_cut_off(tiff), planes, channels)


def directory(tiff: Any, found: Layout, index: int) -> Any:
    """A directory by its number, without a walk over those before it."""
    import tifffile

    if not index or tiff.is_lsm:  # whose offsets need mending by what stands before
        return tiff.pages[index]
    tiff.filehandle.seek(found.offsets[index])
    return tifffile.TiffPage(tiff, index)


def _planes(tiff: Any) -> int:
    """How many images ImageJ has written behind one directory."""
    stated = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1
    page = tiff.pages[0]
    plain = int(page.compression) == 1 and page.is_contiguous
    return stated if isinstance(stated, int) and 1 < stated < 1 << 24 and plain else 1


def _channels(tiff: Any, num_pages: int) -> tuple[tuple[int, ...], ...]:
    """Pages that OME or ImageJ name as channels of one image."""
    if num_pages < 2 or not (tiff.is_ome or tiff.is_imagej):
        return ()
    try:
        axes, shape = tiff.series[0].axes, tiff.series[0].shape
    except Exception:  # what it says of itself is damaged: then pages are pages
        return ()
    outer = [(axis, n) for axis, n in zip(axes, shape, strict=True) if axis not in "YXS"]
    sizes = [n for _, n in outer]
    if "C" not in axes or int(np.prod(sizes)) != num_pages:
        return ()
    place = [axis for axis, _ in outer].index("C")
    pages = np.moveaxis(np.arange(1, num_pages + 1).reshape(sizes), place, -1).reshape(-1, sizes[place])
    return tuple(tuple(row) for row in pages.tolist())


def _is_cut_off(tiff: Any) -> bool:
    handle = tiff.filehandle
    handle.seek(tiff.pages.next_page_offset)
    data = handle.read(tiff.tiff.offsetsize)
    return len(data) == tiff.tiff.offsetsize and bool(struct.unpack(tiff.tiff.offsetformat, data)[0] >= handle.size)


def tag(page: Any, code: int, default: int) -> int:
    """A tag's number."""
    tags = getattr(page, "tags", None)  # the frames of a series share their first page's tags
    found = tags.get(code) if tags is not None else None
    return default if found is None else int(found.value)
