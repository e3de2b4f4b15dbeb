"""A short video taken apart: a movie with transparency for each object and what belongs to it, and the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.batch.matte_video import endless, label_maps_in
from eachmask.batch.movie import Movie
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.images.video import frames_of
from eachmask.draw import to_display
from eachmask.files.atomic import write_bytes
from eachmask.files.png import png
from eachmask.files.text import counted
from eachmask.models.matting.omnimatte import Config, Layers, omnimatte
from eachmask.structures import Matte, UserError
from eachmask.tasks.matting import covering

SIDE = 256
"""Longer side of the layers, px."""
BACKGROUND = "background.png"
COMPOSITE = "composite.mp4"


def take_apart(
    video: str | Path,
    masks: Path,
    out: Path,
    *,
    side: int | None = None,
    onto: Callable[[], Iterator[NDArray[np.uint8]]] | None = None,
    overwrite: bool = False,
    config: Config | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[Path]:
    """Write ``layer_NUMBER.mov`` (ProRes 4444) of each object, ``background.png``, and with ``onto`` ``composite.mp4``;
    returns their paths.

    Args:
        video: see :func:`~eachmask.data.images.video.frames_of`; all frames are in memory.
        masks: folder of label maps, see :func:`~eachmask.batch.matte_video.label_maps_in`; the highest number lies in
            front.
        side: longer side of the layers, px; by default :data:`SIDE`, or the frames' own if it is smaller.
        onto: what the layers are also put before, (H, W, 3) of any size for each frame.

    Raises:
        UserError: earlier results are there, a video that cannot be read, or masks that do not fit it.
    """
    if (out / BACKGROUND).exists() and not overwrite:
        raise UserError(f"{out / BACKGROUND} is there already: --overwrite it, or choose another --out")
    times, frames = _frames(video, out, side or SIDE)
    numbers, known = _masks(masks, frames)
    layers = omnimatte(frames, known, config, on_step=on_step)
    written = [out / f"layer_{number}.mov" for number in numbers]
    for own, path in enumerate(written):
        mattes = map(Matte, layers.alpha[own], layers.colors[own])
        _movie(path, times, (matte.to_rgba(frame) for matte, frame in zip(mattes, frames, strict=True)))
    behind = (layers.background * 255).round().byte().permute(1, 2, 0).numpy()
    write_bytes(out / BACKGROUND, png(behind))
    written.append(out / BACKGROUND)
    if onto is not None:
        written.append(out / COMPOSITE)
        _movie(written[-1], times, _composites(layers, onto))
    return written


def _frames(video: str | Path, out: Path, side: int) -> tuple[list[float], NDArray[np.uint8]]:
    """When each frame is seen, and all of them (T, H, W, 3) with even sides."""
    times, frames = [], []
    for frame in frames_of(video, out):
        image = to_display(frame.image, stretch=False)
        scale = min(1.0, side / max(image.shape[:2]))
        height, width = (max(2, round(length * scale) // 2 * 2) for length in image.shape[:2])
        times.append(frame.seconds)
        frames.append(np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"the frames of {video} are not all of one size")
    return times, np.stack(frames)


def _masks(folder: Path, frames: NDArray[np.uint8]) -> tuple[list[int], NDArray[np.bool_]]:
    """Numbers of the objects, and their masks (N, T, H, W) at the frames' size."""
    files = label_maps_in(folder)
    if len(files) != len(frames):
        there = f"{counted(len(files), 'label map')} (PNG) for {counted(len(frames), 'frame')}"
        raise UserError(f"{folder} has {there}: there must be one for each")
    size = frames.shape[2:0:-1]
    maps = np.stack(
        [cv2.resize(numbers_in(file).astype(np.int32), size, interpolation=cv2.INTER_NEAREST) for file in files]
    )
    numbers = [int(number) for number in np.unique(maps) if number]
    if not numbers:
        raise UserError(f"the label maps of {folder} have no object: 0 is background")
    return numbers, np.stack([maps == number for number in numbers])


def _composites(layers: Layers, onto: Callable[[], Iterator[NDArray[np.uint8]]]) -> Iterator[NDArray[np.uint8]]:
    """The layers before another background."""
    size = (int(layers.alpha.shape[2]), int(layers.alpha.shape[3]))
    for t, backdrop in zip(range(layers.alpha.shape[1]), endless(onto), strict=False):
        image = torch.from_numpy(np.ascontiguousarray(covering(backdrop, size))).permute(2, 0, 1).float() / 255
        mixed = layers._replace(alpha=layers.alpha[:, t : t + 1], colors=layers.colors[:, t : t + 1], background=image)
        yield (mixed.composite()[0] * 255).round().byte().permute(1, 2, 0).numpy()


def _movie(path: Path, times: list[float], images: Iterator[NDArray[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    movie = Movie(path)
    for seconds, image in zip(times, images, strict=True):
        movie.add(seconds, image)
    movie.close()
