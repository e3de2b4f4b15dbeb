"""A video in whose first frame the objects are marked, followed from frame to frame; a run that is killed resumes.

What was found in a frame goes into the journal and, as a label map, to the results at once. What a model remembers is
not kept on the disk: a run that resumes looks at the frames before once more, and its results are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.batch.footage import Footage
from eachmask.batch.options import BatchOptions, settings_of
from eachmask.batch.track_files import (
    DAVIS,
    MADE,
    Track,
    TrackedFrame,
    TrackFiles,
    davis_name,
    known_kinds,
    label_png,
)
from eachmask.data.formats.label_maps import numbers_in
from eachmask.data.images.inputs import Source
from eachmask.data.images.video import VideoFrame
from eachmask.files.journal import Journal
from eachmask.inference.following import check_size, follow_scored, numbers_of_objects
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.structures import RLE, Instances


def follow_video(
    predictor: VideoPredictor[Instances],
    video: str | Path,
    first: Path,
    out: Path,
    *,
    save: Sequence[str] = (),
    most: int | None = None,
    overwrite: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> tuple[Path, int]:
    """Write DAVIS's PNG of each frame, as it comes, and at the end what :class:`TrackFiles` writes; returns the folder
    of the PNGs in ``out``, and how many there are.

    Args:
        predictor: from :func:`~eachmask.inference.following.load_follower`.
        video: see :func:`~eachmask.data.images.video.frames_of`.
        first: label map of the first frame.
        save: further files.
        most: stop after so many frames.
        overwrite: remove earlier results.
        on_frame: called after each frame, for a progress bar.

    Raises:
        UserError: the folder holds results of other settings, the map does not fit the frames, or the video cannot be
            read.
    """
    known_kinds(save)
    labels = numbers_in(first)
    settings = settings_of(predictor.predictor, BatchOptions()) | {
        "video": str(Path(video).absolute()),
        "--first": hashlib.sha256(repr(labels.shape).encode() + labels.tobytes()).hexdigest()[:12],
    }
    footage = Footage(video, out, most, "overlay" in save)
    with Journal(out, settings, MADE, overwrite) as journal:
        footage.check(journal)
        sources = footage.done(journal)
        if sources is None:
            sources = _followed(predictor, footage, labels, journal, on_frame)
            footage.ended(journal, len(sources))
        _finish(journal, sources, predictor, save, footage)
    return out / DAVIS, len(sources)


def check_first(first: Path, frame: VideoFrame | None) -> None:
    """Refuse a label map that cannot be followed, before a model is loaded.

    Args:
        first: of the first frame.
        frame: that frame, where it can be had.

    Raises:
        UserError: it is no label map, has no object, or is of another size.
    """
    labels = numbers_in(first)
    numbers_of_objects(labels)
    if frame is not None:
        check_size(frame, labels)


def _followed(
    predictor: VideoPredictor[Instances],
    footage: Footage,
    first: NDArray[Any],
    journal: Journal,
    on_frame: Callable[[], None],
) -> list[Source]:
    """Follow the objects; what the journal has is not written again."""
    sources: list[Source] = []
    seconds: list[float] = []

    def timed(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        for frame in frames:
            seconds.append(frame.seconds)
            yield frame

    with footage.until_stopped(), contextlib.closing(footage.frames()) as frames:
        for number, (labels, scores) in enumerate(follow_scored(predictor, timed(frames), first)):
            source = footage.source(number)
            if not journal.is_done(source):
                journal.write(journal.out / davis_name(number), label_png(labels))
                numbers, masks = np.unique(labels[labels > 0]).tolist(), RLE.from_label_map(labels).to_coco()
                rows = [[k, scores[k], mask["counts"]] for k, mask in zip(numbers, masks, strict=True)]
                head = {"seconds": seconds[number], "files": [davis_name(number)]}
                journal.append(source, head, {"size": list(labels.shape), "objects": rows})
            sources.append(source)
            on_frame()
    return sources


def _finish(
    journal: Journal,
    sources: Sequence[Source],
    predictor: VideoPredictor[Instances],
    save: Sequence[str],
    footage: Footage,
) -> None:
    """The files about all frames."""
    categories, tracks = tuple(predictor.predictor.info.categories), dict[int, Track]()
    for source in sources:
        for number, score, _ in journal.body(source)["objects"]:
            tracks.setdefault(number, Track()).see(0, score)

    def frames() -> Iterator[TrackedFrame]:
        for source in sources:
            body = journal.body(source)
            (height, width), rows = body["size"], body["objects"]
            masks = RLE.from_coco([{"size": [height, width], "counts": row[2]} for row in rows], (height, width))
            found = Instances(
                (height, width), torch.from_numpy(masks.boxes()), masks, torch.zeros(len(rows), dtype=torch.int64),
                torch.tensor([row[1] for row in rows], dtype=torch.float32),
                track_ids=torch.tensor([row[0] for row in rows], dtype=torch.int64), categories=categories,
            )  # fmt: skip
            yield TrackedFrame(float(journal.header(source)["seconds"]), found)

    further = [kind for kind in save if kind != "davis"]
    TrackFiles(journal, sources, categories, further).write(frames(), tracks, footage.again())
