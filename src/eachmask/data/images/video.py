"""The frames of a video, one by one: video files, cameras, folders and patterns of images, animations, pages of TIFFs.

Frames carry their own time, so that a variable frame rate is right; what a camera held askew wrote is turned upright.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eachmask.data.images.inputs import find_inputs
from eachmask.data.images.read import from_pillow, is_animation, read_image
from eachmask.structures import UserError

SUFFIXES = frozenset(".mp4 .m4v .mov .webm .mkv .avi".split())
"""Of video files, which PyAV decodes."""
CAMERA = "webcam:"
"""Before the number or the device of a camera: webcam:0, webcam:/dev/video2."""
FRAME_RATE = 25.0
"""Of images that do not say when they were taken, per second."""


class VideoFrame(NamedTuple):
    """One frame of a video."""

    number: int  # from 0
    seconds: float  # since the beginning
    image: NDArray[Any]  # (H, W, 3)


def frames_of(source: str | Path, exclude: Path | None = None) -> Generator[VideoFrame]:
    """Read a video; one frame is in memory at a time.

    Args:
        source: a video file (mp4, mov, webm, mkv, avi), an animated GIF, WebP or PNG, a TIFF with pages, a folder or a
            pattern of images in the order of their names, or a camera, see :func:`camera_of`, which has no end.
        exclude: a folder not to be searched for images: where the results go.

    Raises:
        UserError: there is no frame, it cannot be read, or PyAV is not installed.
    """
    path, camera = Path(source), camera_of(source)
    if camera is not None:
        frames = _live(camera)
    elif path.suffix.lower() in SUFFIXES:
        frames = _decoded(path)
    elif is_animation(path):
        frames = _animated(path)
    else:
        frames = _images(source, exclude)
    number = -1
    for number, (seconds, image) in enumerate(frames):
        yield VideoFrame(number, seconds, image)
    if number < 0:
        raise UserError(f"{source} has no frames")


def known_number(source: str | Path, exclude: Path | None = None) -> int | None:
    """How many frames a folder, a pattern of images or a TIFF has; None where that takes decoding.

    Raises:
        UserError: there is none.
    """
    path = Path(source)
    if camera_of(source) is not None or path.suffix.lower() in SUFFIXES or is_animation(path):
        return None
    return len(find_inputs([source], exclude=exclude).sources)


def camera_of(source: str | Path) -> int | str | None:
    """The number or device of a camera; None of any other source.

    >>> camera_of("webcam:0"), camera_of("2"), camera_of("webcam:/dev/video2"), camera_of("street.mp4")
    (0, 2, '/dev/video2', None)
    """
    name = str(source)
    if not name.startswith(CAMERA) and not (name.isdecimal() and not Path(name).exists()):
        return None
    name = name.removeprefix(CAMERA)
    return int(name) if name.isdecimal() else name


def pyav() -> Any:
    """The package that reads and writes video files.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise UserError("video files need PyAV: pip install 'eachmask[video]'") from None
    return av


def _decoded(path: Path) -> Iterator[tuple[float, NDArray[Any]]]:
    av = pyav()
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with av.open(str(path)) as container:
            stream = stream_of(container, path)
            begin = None
            for number, frame in enumerate(container.decode(stream)):
                time = number / FRAME_RATE if frame.time is None else float(frame.time)
                begin = time if begin is None else begin
                yield time - begin, upright(frame)
    except av.FFmpegError as error:
        raise no_video(path, error) from None


def stream_of(container: Any, path: Path) -> Any:
    """The video in an open file of PyAV.

    Raises:
        UserError: there is none.
    """
    if not container.streams.video:
        raise UserError(f"{path} holds no video")
    return container.streams.video[0]


def no_video(path: Path, error: Any) -> UserError:
    """What to tell of an error of PyAV."""
    return UserError(f"{path} is damaged or no video that can be decoded ({error.strerror or error})")


def _live(camera: int | str) -> Iterator[tuple[float, NDArray[Any]]]:
    import cv2

    log_from = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # OpenCV 4, 5
    level = log_from(0)  # nothing: one sentence is enough
    device = cv2.VideoCapture(camera)
    log_from(level)
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what is slower than the camera sees the newest frame, not one of long ago
    try:
        if not device.isOpened():
            raise UserError(f"camera {camera} is not there, or another program uses it: webcam:0 is the first one")
        begin = time.monotonic()
        while True:
            there, image = device.read()
            if not there:
                return
            yield time.monotonic() - begin, np.ascontiguousarray(image[..., ::-1])
    finally:
        device.release()


def upright(frame: Any) -> NDArray[Any]:
    """A decoded frame of PyAV as (H, W, 3) RGB, turned as its file says."""
    image = np.rot90(frame.to_ndarray(format="rgb24"), round((frame.rotation or 0) / 90))
    return np.ascontiguousarray(image)


def _animated(path: Path) -> Iterator[tuple[float, NDArray[Any]]]:
    try:
        with Image.open(path) as image:
            seconds = 0.0
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                yield seconds, from_pillow(image)
                seconds += seconds_shown(image)
    except BROKEN as error:
        raise no_animation(path, error) from None


def seconds_shown(image: Image.Image) -> float:
    """How long the present frame of an animation is shown."""
    return float(image.info.get("duration", 0)) / 1000 or 1 / FRAME_RATE


BROKEN = (OSError, EOFError, SyntaxError, ValueError, LookupError, ArithmeticError, struct.error)
"""What Pillow raises of damaged animations."""


def no_animation(path: Path, error: Exception) -> UserError:
    """What to tell of an error of Pillow."""
    return UserError(f"{path} is damaged and cannot be decoded ({error})")


def _images(source: str | Path, exclude: Path | None) -> Iterator[tuple[float, NDArray[Any]]]:
    for number, one in enumerate(find_inputs([source], exclude=exclude).sources):
        if one.problem:
            raise UserError(f"{one.name} {one.problem}")
        yield number / FRAME_RATE, read_image(one.path, page=one.page)
