"""Objects followed through a video: each frame is predicted once, and a run that is killed resumes.

What was detected in a frame goes into the journal; tracks are made of that alone, which takes little time, so that
they are the same whether a run was interrupted or not. The class of a track is what its detections say together.
Masks of one frame are in memory at a time.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eachmask import draw
from eachmask.batch.footage import Footage
from eachmask.batch.options import BatchOptions, checked, settings_of
from eachmask.batch.steady import steadied
from eachmask.batch.track_files import MADE, Track, TrackedFrame, TrackFiles, known_kinds
from eachmask.data.images.inputs import Source
from eachmask.data.images.read import unit_range
from eachmask.data.images.video import VideoFrame
from eachmask.files.journal import Journal
from eachmask.inference.appearance import Appearance
from eachmask.inference.predictor import Predictor
from eachmask.ops.optical_flow import motion_of, own_motion
from eachmask.ops.tracking import Tracker, TrackerConfig, joined_looks, looks_of
from eachmask.structures import RLE, Instances, UserError
from eachmask.structures.coco import to_annotations

SURELY_MOVES = 0.004
"""Motion of its own in a frame, a share of the longer side, from which on an object's score stays what it is."""


@dataclass(frozen=True)
class TrackOptions:
    """What is done with a video."""

    batch: BatchOptions = BatchOptions()
    low: float = 0.1
    """Detections of lower scores are not even looked at."""
    tracker: TrackerConfig = TrackerConfig()
    min_frames: int = 2
    """Tracks of fewer frames are left out."""
    moving: bool = False
    """Only what moves by itself: scores fall with the motion that the camera's does not explain."""
    smooth: bool = False
    """Without flicker, see :mod:`eachmask.batch.steady`."""
    frames: int | None = None
    """Stop after so many; None: at the end of the video."""
    save: tuple[str, ...] = ()
    """Of davis, mots, overlay."""


@dataclass
class Tracked:
    """What became of a video: number of frames, and the tracks that stayed, by their numbers."""

    frames: int
    tracks: dict[int, Track]
    resumed: int
    """Frames that an earlier run had done."""


def track(
    predictor: Predictor[Any],
    video: str | Path,
    out: Path,
    options: TrackOptions | None = None,
    *,
    overwrite: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Tracked:
    """Follow the objects of a video; writes tracks.csv, tracks.json (YouTube-VIS) and what ``save`` names.

    Args:
        video: see :func:`~eachmask.data.images.video.frames_of`.
        out: results folder; an interrupted run of the same settings resumes there.
        on_frame: called after each frame, for a progress bar.

    Raises:
        UserError: the model finds no masks, options that make no sense, or a video that cannot be read.
    """
    options = options or TrackOptions()
    check_wishes(options.save, options.low, options.tracker.sure)
    if predictor.task.target is not Instances:
        raise UserError(f"{predictor.info.name or predictor.info.variant} finds no objects that could be followed")
    decode = replace(options.batch.decode, score_threshold=options.low)
    batch = checked(replace(options.batch, decode=decode), predictor, predictor.task.outputs)
    settings = settings_of(predictor, batch) | {"video": str(Path(video).absolute())}
    settings |= {"--moving": True} if options.moving else {}
    footage = Footage(video, out, options.frames, "overlay" in options.save)
    with Journal(out, settings, MADE, overwrite) as journal:
        footage.check(journal)
        run = _Run(predictor, footage, journal, replace(options, batch=batch))
        num, resumed = run.detect(on_frame)
        kept = run.associate(num)
        run.write(kept)
    return Tracked(num, kept, resumed)


def check_wishes(save: Sequence[str], low: float, sure: float) -> None:
    """Raises UserError for kinds of files that nobody writes, and for scores that do not rise."""
    known_kinds(save)
    if not 0 <= low <= sure <= 1:
        raise UserError("scores must rise from --low to --score, within 0 to 1")


@dataclass
class _Run:
    predictor: Predictor[Any]
    footage: Footage
    journal: Journal
    options: TrackOptions
    sources: list[Source] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    """Of each frame, the tracks of its detections."""

    def __post_init__(self) -> None:
        self.appearance = Appearance(self.predictor)

    def detect(self, on_frame: Callable[[], None]) -> tuple[int, int]:
        """Predict what the journal lacks; the number of frames, and of those that were done before."""
        footage, resumed, size = self.footage, 0, None
        with footage.until_stopped(), contextlib.closing(footage.frames()) as frames:
            for frame, neighbor in with_neighbors(frames):
                size = size or frame.image.shape[:2]
                if frame.image.shape[:2] != size:
                    raise UserError(_of_another_size(f"frame {frame.number} of {footage.video}", frame.image, size))
                source = footage.source(frame.number)
                if self.journal.is_done(source):
                    resumed += 1
                else:
                    self._detect(source, frame, neighbor)
                self.sources.append(source)
                on_frame()
        if not self.sources:
            raise UserError(f"{footage.video} was stopped before its first frame was done")
        return len(self.sources), resumed

    def _detect(self, source: Source, frame: VideoFrame, neighbor: VideoFrame) -> None:
        batch = self.options.batch
        with self.appearance.listening():
            found: Instances = self.predictor.predict_arrays(
                [unit_range(frame.image)], options=batch.decode, tile=batch.tile, overlap=batch.overlap,
                classes=batch.classes,
            )[0]  # fmt: skip
        if batch.classes:
            found = self.predictor.task.choose(found, batch.classes, None)
        if found.masks is None or found.scores is None:
            raise UserError("tracks need masks, and this model finds boxes only")
        found = replace(found.to("cpu"), masks=found.masks.to_rle())
        assert found.masks is not None
        found = found[found.masks.area() > 0]
        assert found.masks is not None
        shown = draw.to_display(frame.image, stretch=False)
        if self.options.moving and len(found):
            motion = own_motion(draw.to_display(neighbor.image, stretch=False), shown)
            share = np.clip(motion_of(found.masks, motion) / SURELY_MOVES, 0, 1)
            assert found.scores is not None
            found.scores = found.scores * torch.from_numpy(share).to(found.scores)
        looks, features = looks_of(shown, found.masks), self.appearance.of(found.masks)
        if features is not None:
            looks = joined_looks(looks, features)
        body = {"objects": to_annotations(found), "labels": found.labels.tolist(), "looks": np.round(looks, 4).tolist()}
        height, width = found.image_size
        self.journal.append(source, {"seconds": frame.seconds, "height": height, "width": width}, body)

    def found(self, frame: int) -> tuple[Instances, np.ndarray, float]:
        """What the journal holds of a frame: detections, the look of each, and the time.

        Raises:
            UserError: a record of the wrong kind.
        """
        head, body = self.journal.header(self.sources[frame]), self.journal.body(self.sources[frame])
        try:
            return self._of_record(head, body)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise self.journal.damaged() from error

    def _of_record(self, head: dict[str, Any], body: dict[str, Any]) -> tuple[Instances, np.ndarray, float]:
        size, rows = (head["height"], head["width"]), body["objects"]
        masks = RLE.from_coco([row["segmentation"] for row in rows], size) if rows else RLE.empty(size)
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels, scores = torch.tensor(body["labels"], dtype=torch.int64), torch.tensor([row["score"] for row in rows])
        found = Instances(
            size, boxes, masks, labels, scores.reshape(-1).float(), categories=tuple(self.predictor.categories)
        )
        looks = np.array(body["looks"], np.float64).reshape(len(found), -1 if len(found) else 0)
        if not (np.isfinite(looks).all() and scores.isfinite().all() and boxes.isfinite().all()):
            raise ValueError("what is not a number")
        return found, looks, float(head["seconds"])

    def associate(self, num: int) -> dict[int, Track]:
        """Make tracks; those of enough frames."""
        tracker, tracks = Tracker(self.options.tracker), defaultdict[int, Track](Track)
        for frame in range(num):
            found, looks, _ = self.found(frame)
            assert found.masks is not None and found.scores is not None
            numbers = tracker.update(found.masks, found.scores.numpy(), looks)
            self.numbers.append(numbers)
            for number, label, score in zip(
                numbers.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            ):
                if number:
                    tracks[number].see(label, score)
        return {number: one for number, one in tracks.items() if one.frames >= self.options.min_frames}

    def write(self, kept: dict[int, Track]) -> None:
        """All files, frame by frame."""
        num = len(self.sources)
        frames: Iterator[TrackedFrame] = (self.tracked(frame, kept) for frame in range(num))
        if self.options.smooth:
            frames = steadied(lambda frame: self.tracked(frame, kept), num, self._seen(kept))
        files = TrackFiles(self.journal, self.sources, self.predictor.categories, self.options.save)
        files.write(frames, kept, self.footage.again())

    def _seen(self, kept: dict[int, Track]) -> dict[int, list[int]]:
        """Of each track the frames in which it was found."""
        seen: dict[int, list[int]] = {number: [] for number in kept}
        for frame, numbers in enumerate(self.numbers):
            for number in numbers.tolist():
                if number in seen:
                    seen[number].append(frame)
        return seen

    def tracked(self, frame: int, kept: dict[int, Track]) -> TrackedFrame:
        """The objects of a frame that belong to tracks, with their numbers and classes."""
        found, _, seconds = self.found(frame)
        numbers = self.numbers[frame]
        some = np.array([number in kept for number in numbers.tolist()], bool)
        ids = torch.from_numpy(numbers[some])
        labels = torch.tensor([kept[number].label for number in ids.tolist()], dtype=torch.int64)
        return TrackedFrame(seconds, replace(found[some], track_ids=ids, labels=labels))


def with_neighbors(frames: Iterable[VideoFrame]) -> Iterator[tuple[VideoFrame, VideoFrame]]:
    """Each frame with the one before; the first with the one after, or itself where it is alone."""
    frames = iter(frames)
    for first in frames:
        before = next(frames, first)
        yield first, before
        if before is not first:
            yield before, first
        for frame in frames:
            yield frame, before
            before = frame


def _of_another_size(name: str, image: np.ndarray, first: tuple[int, ...]) -> str:
    (height, width), (first_height, first_width) = image.shape[:2], first
    return (
        f"{name} is {width} x {height} pixels and the first one {first_width} x {first_height}: frames of a video have "
        "one size; images that are no video are for eachmask predict"
    )
