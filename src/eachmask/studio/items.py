"""What is annotated one by one: files, pages of stacks, frames of videos; and which of them follow one another."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.clip import clip, is_clip
from eachmask.data.images.files import files_below, image_size
from eachmask.data.images.read import SUFFIXES, num_channels, num_pages, read_image
from eachmask.data.images.video import SUFFIXES as VIDEOS
from eachmask.files.atomic import replacing
from eachmask.files.png import png
from eachmask.structures import UserError

COLORS = ("ff0000", "00ff00", "0000ff", "ffffff", "00ffff", "ff00ff", "ffff00")
"""Of channels, as ImageJ has them."""
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class Item:
    """One image.

    Args:
        name: relative POSIX path; of pages and frames as ``eachmask predict`` calls them, ``cells.tif#page=2``.
        stored: the name of its file in data sets, which know no pages: ``cells_page2.tif``.
        place: of the page or the frame in the file, from 1.
        channels: to choose from; 0: gray or colors.
    """

    path: Path
    name: str
    stored: str
    kind: Literal["file", "page", "frame"] = "file"
    place: int = 1
    channels: int = 0

    @property
    def is_file(self) -> bool:
        """Whether other programs see it when they open its file."""
        return self.kind == "file" and not self.channels

    def size(self) -> tuple[int, int]:
        """(height, width).

        Raises:
            UserError: it is broken.
        """
        if self.is_file:
            return image_size(self.path)
        height, width = self.read().shape[:2]
        return height, width

    def read(self) -> NDArray[Any]:
        """(H, W, 3), or (H, W, channels) where there are some to choose from.

        Raises:
            UserError: it cannot be read.
        """
        if self.kind == "frame":
            return clip(self.path).read(self.place - 1)
        if not self.channels:
            return read_image(self.path, page=self.place)
        each = (read_image(self.path, page=self.place, channels=(k + 1,))[..., 0] for k in range(self.channels))
        return np.stack(list(each), -1)

    def seen(self) -> NDArray[Any]:
        """(H, W, 3) as models see it: channels in their colors, each from its darkest to its brightest.

        Raises:
            UserError: it cannot be read.
        """
        pixels = self.read()
        if not self.channels:
            return pixels
        shades = [Shade(k, COLORS[k % len(COLORS)]) for k in range(self.channels)]
        return mixed(pixels, shades, [window_of(pixels[..., k]) for k in range(self.channels)])

    def store(self, folder: Path) -> Path:
        """Write what models see of it as a file of its own, unless that was done before; returns the file.

        Raises:
            UserError: it cannot be read.
        """
        import tifffile

        path = folder / self.stored
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = self.seen()
            with replacing(path) as part:
                if path.suffix == ".png":
                    part.write_bytes(png(pixels))
                else:  # of any depth
                    tifffile.imwrite(part, pixels, photometric="rgb")
        return path


@dataclass(frozen=True)
class Shade:
    """How a channel is shown: in a color (rrggbb), from black at one value to full at another, None: its own window."""

    channel: int
    color: str
    low: float | None = None
    high: float | None = None


_VALUE = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|)"
_SHADE = re.compile(rf"(\d{{1,4}}):([0-9a-f]{{6}}):{_VALUE}:{_VALUE}")


def shades_of(text: str) -> list[Shade]:
    """What the page asks a tile to be drawn with.

    >>> shades_of("0:ff0000::,2:00ff00:10:500")
    [Shade(channel=0, color='ff0000', low=None, high=None), Shade(channel=2, color='00ff00', low=10.0, high=500.0)]

    Raises:
        UserError: it says something else.
    """
    shades = []
    for part in filter(None, text.split(",")):
        found = _SHADE.fullmatch(part)
        if found is None:
            raise UserError(f"{part!r} is no channel: write its number, color, and values, 0:ff0000:10:500")
        low, high = (float(value) if value else None for value in found.group(3, 4))
        shades.append(Shade(int(found[1]), found[2], low, high))
    return shades


def window_of(values: NDArray[Any], share: float = 0.1) -> tuple[float, float]:
    """The values between which nearly all lie; those of ``share`` percent at each end are left out."""
    flat = values.reshape(-1)[:: max(1, values.size // 1_000_000)]
    finite = flat[np.isfinite(flat)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, [share, 100 - share]))
    return (low, high) if low < high else (float(finite.min()), float(finite.max()))


def mixed(pixels: NDArray[Any], shades: Sequence[Shade], windows: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """(H, W, channels) -> (H, W, 3): the light of all shades added."""
    light: NDArray[np.float32] = np.zeros((*pixels.shape[:2], 3), np.float32)
    for shade in shades:
        own = windows[shade.channel]
        low, high = own[0] if shade.low is None else shade.low, own[1] if shade.high is None else shade.high
        part = (np.nan_to_num(pixels[..., shade.channel].astype(np.float32)) - low) / ((high - low) or 1)
        light += np.clip(part, 0, 1)[..., None] * np.array(list(bytes.fromhex(shade.color)), np.float32)
    return np.clip(light, 0, 255, out=light).astype(np.uint8)


def halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """Half as high and wide."""
    height, width = pixels.shape[:2]
    size = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
    if pixels.shape[2] == 3:
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    each = [np.ascontiguousarray(pixels[..., k]) for k in range(pixels.shape[2])]
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in each], -1)


def items_of(folder: Path) -> list[Item]:
    """All images below a folder in the order of their names; links that lead out of it are left out."""
    found: list[Item] = []
    for path in files_below(folder):
        if path.suffix.lower() in SUFFIXES | VIDEOS and path.resolve().is_relative_to(folder):
            found += _of_file(path, path.relative_to(folder).as_posix())
    return found


def _of_file(path: Path, name: str) -> Iterator[Item]:
    try:
        number = len(clip(path)) if is_clip(path) else 0
    except UserError:  # it cannot be opened: reading it will tell why
        yield Item(path, name, name, "frame")
        return
    channels = 0 if number else num_channels(path)
    kind: Literal["page", "frame"] = "frame" if number else "page"
    number = number or num_pages(path, (1,) if channels else ())
    if number == 1 and path.suffix.lower() not in VIDEOS:
        yield Item(path, name, name, channels=channels)
        return
    plain = PurePosixPath(name)
    for place in range(1, number + 1):
        stored = plain.with_name(f"{plain.stem}_{kind}{place}{'.png' if kind == 'frame' else plain.suffix}")
        yield Item(path, f"{name}#{kind}={place}", str(stored), kind, place, channels)


def clips_of(items: Sequence[Item]) -> list[range]:
    """For each item the items that it is in one row with: pages of a stack, frames of a video, files of a folder whose
    names differ in a number at their end alone.

    >>> names = ["a.png", "f/001.png", "f/002.png", "f/12.png"]
    >>> clips_of([Item(Path(name), name, name) for name in names])
    [range(0, 1), range(1, 3), range(1, 3), range(3, 4)]
    """
    rows = []
    for _, group in itertools.groupby(range(len(items)), key=lambda index: _row(items[index])):
        places = list(group)
        rows += [range(places[0], places[-1] + 1)] * len(places)
    return rows


def _row(item: Item) -> tuple[Any, ...]:
    numbered = _NUMBERED.fullmatch(item.path.stem)
    if item.kind != "file" or numbered is None:
        return (item.path,)
    return item.path.parent, numbered[1], len(numbered[2]), item.path.suffix
