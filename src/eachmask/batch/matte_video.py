"""A video whose foreground is cut out: frames in, movies and mattes out, one frame in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.batch.movie import Movie
from eachmask.data.formats.mattes import matte as read_matte
from eachmask.data.images.video import VideoFrame, frames_of
from eachmask.draw import to_display
from eachmask.files.atomic import write_bytes
from eachmask.inference.matting import MattePredictor, colored
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.metrics.mattes import Alpha, alpha_errors, flicker
from eachmask.models.protocol import Recurrent
from eachmask.structures import Matte, UserError
from eachmask.tasks.matting import MATTING, composite

ALPHA = "alpha"
KINDS = {"rgba": "cutout.mov", "webm": "cutout.webm", "composite": "composite.mp4", ALPHA: ALPHA}
"""Kind of result -> ProRes 4444 and VP9 with transparency, H.264 before another background, and a folder with a gray
PNG of 16 bits for each frame."""


class MattedVideo(NamedTuple):
    """What was done."""

    frames: int
    errors: dict[str, float]
    """Means over frames, as of :func:`~eachmask.metrics.mattes.alpha_errors`, and ``flicker`` over pairs of successive
    ones; empty without targets."""


def matte_video(
    predictor: MattePredictor,
    video: str | Path,
    out: Path,
    save: Iterable[str],
    *,
    onto: Callable[[], Iterator[NDArray[np.uint8]]] | None = None,
    targets: Path | None = None,
    overwrite: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> MattedVideo:
    """Cut out the foreground of every frame. A model that remembers sees them one after the other.

    Args:
        video: see :func:`~eachmask.data.images.video.frames_of`.
        out: folder of the results, made if missing.
        save: of :data:`KINDS`.
        onto: what composites are put before, (H, W, 3) of any size for each frame; begins again where it is shorter.
        targets: folder of mattes, one PNG per frame in the order of their names, to measure by.
        overwrite: remove earlier results.

    Raises:
        UserError: earlier results are there, an unknown kind, a video that cannot be read, or mattes that do not fit.
    """
    kinds = tuple(dict.fromkeys(save))
    _make_room(out, kinds, overwrite)
    if "composite" in kinds and onto is None:
        raise UserError("a composite needs a background: give --onto")
    known = None if targets is None else sorted(targets.glob("*.png"))
    movies = {kind: Movie(out / KINDS[kind]) for kind in kinds if kind != ALPHA}
    behind = itertools.repeat(None) if onto is None else _endless(onto)
    errors: list[dict[str, float]] = []
    last: tuple[Alpha, Alpha] | None = None
    number = 0
    for (frame, matte), backdrop in zip(_mattes(predictor, frames_of(video, out)), behind, strict=False):
        for kind, movie in movies.items():
            movie.add(frame.seconds, _shown(kind, matte, frame.image, backdrop))
        if ALPHA in kinds:
            (data,) = MATTING.outputs.writers[ALPHA]("", matte, frame.image).files.values()
            write_bytes(out / ALPHA / f"{frame.number:05d}.png", data)
        if known is not None:
            pair = matte.alpha.double().numpy(), _target(known, frame, targets)
            errors.append(alpha_errors(*pair) | _flicker(last, pair))
            last = pair
        number += 1
        on_frame()
    for movie in movies.values():
        movie.close()
    return MattedVideo(number, _means(errors))


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


def _shown(kind: str, matte: Matte, image: NDArray[Any], backdrop: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if kind == "composite":
        assert backdrop is not None
        return composite(matte, image, backdrop)
    return matte.to_rgba(to_display(image, stretch=False))


def _endless(begin: Callable[[], Iterator[NDArray[np.uint8]]]) -> Iterator[NDArray[np.uint8]]:
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


def _target(files: list[Path], frame: VideoFrame, folder: Path | None) -> Alpha:
    if frame.number >= len(files):
        raise UserError(f"{folder} has {len(files)} mattes, and the video more frames")
    alpha = read_matte(files[frame.number], (), {}).alpha.double().numpy()
    if alpha.shape != frame.image.shape[:2]:
        height, width = frame.image.shape[:2]
        raise UserError(
            f"{files[frame.number]} has {alpha.shape[1]} x {alpha.shape[0]} px, its frame {width} x {height}"
        )
    return alpha


def _flicker(last: tuple[Alpha, Alpha] | None, now: tuple[Alpha, Alpha]) -> dict[str, float]:
    return {} if last is None else {"flicker": flicker((last[0], now[0]), (last[1], now[1]))}


def _means(errors: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in errors for name in one)
    return {name: float(np.mean([one[name] for one in errors if name in one])) for name in names}
