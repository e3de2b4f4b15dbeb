"""A video whose foreground is cut out: frames in, movies and mattes out, one frame in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.batch.movie import Movie
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.images.video import VideoFrame, frames_of
from eachmask.draw import to_display
from eachmask.files.atomic import write_bytes
from eachmask.inference.matting import BandPredictor, MattePredictor, colored
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.models.protocol import Recurrent
from eachmask.structures import RLE, Matte, UserError
from eachmask.tasks.matting import MATTING, composite

ALPHA = "alpha"
KINDS = {"rgba": "cutout.mov", "webm": "cutout.webm", "composite": "composite.mp4", ALPHA: ALPHA}
"""Kind of result -> ProRes 4444 and VP9 with transparency, H.264 before another background, and a folder with a gray
PNG of 16 bits for each frame."""


def matte_video(
    predictor: MattePredictor,
    video: str | Path,
    out: Path,
    save: Iterable[str],
    *,
    masks: Path | None = None,
    onto: Callable[[], Iterator[NDArray[np.uint8]]] | None = None,
    overwrite: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> int:
    """Cut out the foreground of every frame; returns how many there are. A model that remembers sees them one after the
    other.

    Args:
        video: see :func:`~eachmask.data.images.video.frames_of`.
        out: folder of the results, made if missing.
        save: of :data:`KINDS`.
        masks: folder of label maps, see :func:`label_maps_in`, that say what the foreground is; the predictor is a
            :class:`~eachmask.inference.matting.BandPredictor` then.
        onto: what composites are put before, (H, W, 3) of any size for each frame; begins again where it is shorter.
        overwrite: remove earlier results.

    Raises:
        UserError: earlier results are there, an unknown kind, a video that cannot be read, or masks that do not fit it.
    """
    kinds = tuple(dict.fromkeys(save))
    _make_room(out, kinds, overwrite)
    if "composite" in kinds and onto is None:
        raise UserError("a composite needs a background: give --onto")
    frames = frames_of(video, out)
    mattes = _mattes(predictor, frames) if masks is None else _of_masks(predictor, frames, label_maps_in(masks))
    movies = {kind: Movie(out / KINDS[kind]) for kind in kinds if kind != ALPHA}
    behind = itertools.repeat(None) if onto is None else endless(onto)
    number = 0
    for (frame, matte), backdrop in zip(mattes, behind, strict=False):
        for kind, movie in movies.items():
            movie.add(frame.seconds, _shown(kind, matte, frame.image, backdrop))
        if ALPHA in kinds:
            (data,) = MATTING.outputs.writers[ALPHA]("", matte, frame.image).files.values()
            write_bytes(out / ALPHA / f"{frame.number:05d}.png", data)
        number += 1
        on_frame()
    for movie in movies.values():
        movie.close()
    return number


def _mattes(predictor: MattePredictor, frames: Iterable[VideoFrame]) -> Iterator[tuple[VideoFrame, Matte]]:
    """Of each frame, with the foreground's own colors."""
    video = VideoPredictor(predictor) if isinstance(predictor.model, Recurrent) else None
    state: Any = None
    for frame in frames:
        if video is None:
            yield frame, predictor.predict(frame.image)
        else:
            matte, state = video.step(frame.image, state)
            yield frame, colored(frame.image, matte)


def label_maps_in(folder: Path) -> list[Path]:
    """One PNG for each frame in the order of their names: 0 is background, every other number an object.

    Raises:
        UserError: there is none.
    """
    files = sorted(folder.glob("*.png"))
    if not files:
        raise UserError(f"{folder} has no label map: --masks is a folder with a PNG for each frame")
    return files


def _of_masks(
    predictor: MattePredictor, frames: Iterable[VideoFrame], files: Sequence[Path]
) -> Iterator[tuple[VideoFrame, Matte]]:
    """Of each frame, from the mask of all objects of its label map."""
    assert isinstance(predictor, BandPredictor)
    for frame, file in itertools.zip_longest(frames, files):
        if frame is None or file is None:
            more = "more" if file is None else "fewer"
            raise UserError(f"there are {len(files)} label maps in --masks, and {more} frames: one is wanted for each")
        inside = numbers_in(file) > 0
        if inside.shape != frame.image.shape[:2]:
            (height, width), (own_height, own_width) = inside.shape, frame.image.shape[:2]
            raise UserError(f"{file} has {width} x {height} px and the frame {own_width} x {own_height}")
        if not inside.any():
            yield frame, Matte(torch.zeros(inside.shape))
            continue
        yield frame, predictor.of_masks(frame.image, RLE.from_bitmaps(inside[None]))


def _shown(kind: str, matte: Matte, image: NDArray[Any], backdrop: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if kind == "composite":
        assert backdrop is not None
        return composite(matte, image, backdrop)
    return matte.to_rgba(to_display(image, stretch=False))


def endless(begin: Callable[[], Iterator[NDArray[np.uint8]]]) -> Iterator[NDArray[np.uint8]]:
    """Images, from the beginning again once they end."""
    while True:
        yield from begin()


def _make_room(out: Path, kinds: tuple[str, ...], overwrite: bool) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"of a video --save knows {', '.join(KINDS)}, not {kind!r}")
        path = out / KINDS[kind]
        there = list(path.glob("[0-9]*.png")) if kind == ALPHA else [path] if path.exists() else []
        if there and not overwrite:
            raise UserError(f"{path} is there already: --overwrite it, or choose another --out")
        for old in there:
            old.unlink()
        (path if kind == ALPHA else out).mkdir(parents=True, exist_ok=True)
