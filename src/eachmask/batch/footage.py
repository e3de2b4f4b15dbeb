"""A video as a run looks at it: its frames, what the journal calls them, and the frames once more to be drawn over."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from eachmask import draw
from eachmask.batch.movie import Movie
from eachmask.batch.track_files import MADE, RECORDING
from eachmask.data.images.inputs import Source
from eachmask.data.images.video import VideoFrame, camera_of, frames_of, known_number
from eachmask.files.journal import Journal, check_free
from eachmask.structures import UserError

_END = 999_999_999
"""What the journal calls the place after the last frame; no video has so many."""


@dataclass(frozen=True)
class Footage:
    """A video file, a folder, ... or a camera, which does not show anything twice and has no end but Ctrl + C.

    Args:
        video: see :func:`~eachmask.data.images.video.frames_of`.
        out: results folder.
        most: frames after which it ends.
        drawn: it will be drawn over, so that what a camera shows is recorded.
    """

    video: str | Path
    out: Path
    most: int | None = None
    drawn: bool = False

    @property
    def live(self) -> bool:
        """Whether it is a camera."""
        return camera_of(self.video) is not None

    def first(self, overwrite: bool) -> VideoFrame | None:
        """Its first frame, so that a wrong call ends before a model is loaded; None of a camera.

        Raises:
            UserError: it cannot be read, there is none, or the results folder holds what others made and
                ``overwrite`` does not allow for that.
        """
        check_free(self.out, MADE, overwrite)
        if self.live:
            return None
        with contextlib.closing(frames_of(self.video, self.out)) as frames:
            return next(frames)

    def check(self, journal: Journal) -> None:
        """Raises a UserError where the folder holds what a camera has shown before."""
        if self.live and journal.entries:
            raise UserError(
                f"{journal.out} holds what a camera showed before, which does not come again: --overwrite it, or "
                "choose another --out"
            )

    def frames(self) -> Generator[VideoFrame]:
        """One after the other.

        Raises:
            UserError: one of them cannot be read; it says how to have those before it.
        """
        movie, number = None, 0
        try:
            for frame in itertools.islice(frames_of(self.video, self.out), self.most):
                number = frame.number + 1
                if self.live and self.drawn:
                    movie = movie or Movie(self.out / RECORDING)
                    movie.add(frame.seconds, draw.to_display(frame.image, stretch=False))
                yield frame
        except UserError as error:
            if not number:
                raise
            raise UserError(f"{error}: --frames {number} takes what comes before it") from None
        finally:
            if movie is not None:
                movie.close()

    def until_stopped(self) -> contextlib.AbstractContextManager[None]:
        """Within it Ctrl + C ends what a camera shows, and nothing else."""
        return contextlib.suppress(*((KeyboardInterrupt,) if self.live else ()))

    def done(self, journal: Journal) -> list[Source] | None:
        """All frames, where an earlier run has done them all; without decoding them."""
        end = self.source(_END)
        number = int(journal.body(end)["frames"]) if journal.is_done(end) else known_number(self.video, self.out)
        if self.most is not None:
            number = self.most if number is None else min(number, self.most)
        sources = [self.source(frame) for frame in range(number or 0)]
        return sources if sources and all(map(journal.is_done, sources)) else None

    def ended(self, journal: Journal, number: int) -> None:
        """Record that a file has no more frames than these, which were all done."""
        end = self.source(_END)
        if number != self.most and Path(self.video).is_file() and not journal.is_done(end):
            journal.append(end, {}, {"frames": number})

    def again(self) -> Iterator[VideoFrame]:
        """The frames once more, if they are to be drawn over."""
        return iter(frames_of(self.out / RECORDING if self.live else self.video, self.out) if self.drawn else ())

    def source(self, number: int) -> Source:
        """What the journal calls a frame."""
        path = Path(self.video).absolute()
        state = path.stat() if path.is_file() else None
        size, modified = (state.st_size, state.st_mtime_ns) if state else (0, 0)
        return Source(path, f"{number:06d}", f"{number:06d}", size=size, modified=modified)
