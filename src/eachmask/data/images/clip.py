"""Any frame of a video file or an animation, in any order: :mod:`eachmask.data.images.video` reads them one by one."""

from __future__ import annotations

import itertools
import os
import threading
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from eachmask.data.images.read import from_pillow, is_animation
from eachmask.data.images.video import (
    BROKEN,
    FRAME_RATE,
    SUFFIXES,
    no_animation,
    no_video,
    pyav,
    seconds_shown,
    stream_of,
    upright,
)
from eachmask.structures import UserError

_AHEAD = 16
"""Frames that are decoded on the way to another one, rather than beginning again at the last whole one before it."""
_BACK = (8, 64)
"""Frames before the one that is looked for, where the file leads to a whole frame behind it."""


class Clip(ABC):
    """An open file; threads take turns.

    Raises:
        UserError: on opening, that it cannot be read.
    """

    seconds: list[float]
    """When each frame is shown, from 0."""

    def __init__(self, path: Path) -> None:
        self.path, self._turn = path, threading.Lock()

    def __len__(self) -> int:
        """Frames."""
        return len(self.seconds)

    def read(self, number: int) -> NDArray[Any]:
        """Frame ``number`` (from 0), (H, W, 3).

        Raises:
            UserError: there is no such frame, or it is damaged.
        """
        if not 0 <= number < len(self):
            raise UserError(f"{self.path} has no frame {number + 1}: its frames are 1 to {len(self)}")
        with self._turn:
            return self._read(number)

    @abstractmethod
    def _read(self, number: int) -> NDArray[Any]: ...


class _Video(Clip):
    """Frames are told apart by the times that the file gives them, so that a search may begin at any whole frame; where
    it gives none (AVI), they are counted from the beginning."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._av = pyav()
        try:
            self._open()
            packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        except self._av.FFmpegError as error:
            raise no_video(self.path, error) from None
        self._stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
        self._stamped = len(self._stamps) == len(packets)
        unit = float(self._stream.time_base) if self._stamped else 1 / float(self._stream.average_rate or FRAME_RATE)
        stamps = self._stamps if self._stamped else range(len(packets))
        self.seconds = [unit * (stamp - stamps[0]) for stamp in stamps]
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._next = len(self)

    def _open(self) -> None:
        self._container = self._av.open(str(self.path))
        self._stream = stream_of(self._container, self.path)

    def _read(self, number: int) -> NDArray[Any]:
        try:
            if not self._next <= number <= self._next + _AHEAD:
                self._frames = self._from_before(number)
            for place, frame in self._frames:
                self._next = place + 1
                if place >= number:
                    return upright(frame)
        except self._av.FFmpegError as error:
            raise no_video(self.path, error) from None
        raise UserError(f"{self.path} is cut off: frame {number + 1} is missing, copy the file again")

    def _from_before(self, number: int) -> Iterator[tuple[int, Any]]:
        """Frames with their places, from that one or one before it on."""
        for back in (0, *_BACK) if self._stamped else ():
            self._container.seek(self._stamps[max(0, number - back)], stream=self._stream)
            frames = self._placed()
            first = next(frames, None)
            if first is not None and first[0] <= number:
                return itertools.chain([first], frames)
        self._open()
        return self._placed()

    def _placed(self) -> Iterator[tuple[int, Any]]:
        for count, frame in enumerate(self._container.decode(self._stream)):
            yield bisect_left(self._stamps, frame.pts) if self._stamped else count, frame


class _Animation(Clip):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seconds, seconds = [], 0.0
        try:
            self._image = Image.open(path)
            for number in range(getattr(self._image, "n_frames", 1)):
                self._image.seek(number)
                self._image.load()  # a WebP knows how long a frame is shown only then
                self.seconds.append(seconds)
                seconds += seconds_shown(self._image)
        except BROKEN as error:
            raise no_animation(path, error) from None

    def _read(self, number: int) -> NDArray[Any]:
        try:
            if number < self._image.tell():
                self._image = Image.open(self.path)  # Pillow loses count where it goes back in a PNG
            self._image.seek(number)
            return from_pillow(self._image)
        except BROKEN as error:
            raise no_animation(self.path, error) from None


def clip(path: Path) -> Clip:
    """The video file or animation, opened once as long as it does not change.

    Raises:
        UserError: it cannot be read, or PyAV is not installed.
    """
    try:
        status = os.stat(path)
    except OSError:
        raise UserError(f"{path} does not exist") from None
    return _clip(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _clip(path: Path, size: int, modified: int) -> Clip:
    del size, modified
    return _Video(path) if path.suffix.lower() in SUFFIXES else _Animation(path)


def is_clip(path: Path) -> bool:
    """Whether a file is a video by its suffix, or an animation by what it holds."""
    return path.suffix.lower() in SUFFIXES or is_animation(path)
