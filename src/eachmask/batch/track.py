"""Objects followed through a video: each frame is predicted once, and a run that is killed resumes.

What was detected in a frame goes into the journal; tracks are made of that alone, which takes little time, so that
they are the same whether a run was interrupted or not. The class of a track is what its detections say together.
Masks of one frame are in memory at a time.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eachmask import draw
from eachmask.batch.movie import Movie
from eachmask.batch.options import BatchOptions, checked, settings_of
from eachmask.data.images.inputs import Source
from eachmask.data.images.read import unit_range
from eachmask.data.images.video import VideoFrame, frames_of
from eachmask.files.journal import Journal, compact_json
from eachmask.inference.predictor import Predictor
from eachmask.ops.optical_flow import motion_of, own_motion
from eachmask.ops.tracking import Tracker, TrackerConfig, looks_of
from eachmask.structures import RLE, Instances, UserError
from eachmask.structures.coco import category_to_dict, to_annotations

TABLE, VIDEO_JSON, MOTS, OVERLAY, DAVIS = "tracks.csv", "tracks.json", "mots.txt", "overlay.mp4", "davis"
KINDS = {"davis": DAVIS, "mots": MOTS, "overlay": OVERLAY}
SURELY_MOVES = 0.004
"""Motion of its own in a frame, a share of the longer side, from which on an object's score stays what it is."""
COLUMNS = "frame,seconds,track,class,score,x1,y1,x2,y2,area\n"


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
    save: tuple[str, ...] = ()
    """Of davis, mots, overlay."""


@dataclass
class Track:
    """What is known of one track."""

    frames: int = 0
    scores: float = 0.0
    votes: Counter[int] = field(default_factory=Counter)

    @property
    def label(self) -> int:
        """The class that its scores say together."""
        return max(self.votes, key=lambda label: (self.votes[label], -label))

    @property
    def score(self) -> float:
        """Mean over its frames."""
        return self.scores / max(self.frames, 1)


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
    with Journal(out, settings, (TABLE, VIDEO_JSON, *KINDS.values()), overwrite) as journal:
        run = _Run(predictor, video, journal, replace(options, batch=batch))
        num, resumed = run.detect(on_frame)
        kept = run.associate(num)
        run.write(kept)
    return Tracked(num, kept, resumed)


def check_wishes(save: Sequence[str], low: float, sure: float) -> None:
    """Raises UserError for kinds of files that nobody writes, and for scores that do not rise."""
    unknown = [kind for kind in save if kind not in KINDS]
    if unknown:
        raise UserError(f"--save knows {', '.join(KINDS)}, not {unknown[0]!r}")
    if not 0 <= low <= sure <= 1:
        raise UserError("scores must rise from --low to --score, within 0 to 1")


@dataclass
class _Run:
    predictor: Predictor[Any]
    video: str | Path
    journal: Journal
    options: TrackOptions
    sources: list[Source] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    """Of each frame, the tracks of its detections."""

    def frames(self) -> Iterator[VideoFrame]:
        return frames_of(self.video, self.journal.out)

    def detect(self, on_frame: Callable[[], None]) -> tuple[int, int]:
        """Predict what the journal lacks; the number of frames, and of those that were done before."""
        path, resumed, size = Path(self.video).absolute(), 0, None
        state = path.stat() if path.is_file() else None
        for frame, neighbor in with_neighbors(self.frames()):
            size = size or frame.image.shape[:2]
            if frame.image.shape[:2] != size:
                raise UserError(f"frame {frame.number} of {self.video} has another size than the first one")
            name = f"{frame.number:06d}"
            source = Source(path, name, name, size=state.st_size if state else 0,
                            modified=state.st_mtime_ns if state else 0)  # fmt: skip
            self.sources.append(source)
            if self.journal.is_done(source):
                resumed += 1
            else:
                self._detect(source, frame, neighbor)
            on_frame()
        return len(self.sources), resumed

    def _detect(self, source: Source, frame: VideoFrame, neighbor: VideoFrame) -> None:
        batch = self.options.batch
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
        looks = looks_of(shown, found.masks)
        body = {"objects": to_annotations(found), "labels": found.labels.tolist(), "looks": np.round(looks, 4).tolist()}
        height, width = found.image_size
        self.journal.append(source, {"seconds": frame.seconds, "height": height, "width": width}, body)

    def found(self, frame: int) -> tuple[Instances, dict[str, Any], float]:
        """What the journal holds of a frame: detections, all that was written of them, and the time."""
        head, body = self.journal.header(self.sources[frame]), self.journal.body(self.sources[frame])
        size, rows = (head["height"], head["width"]), body["objects"]
        masks = RLE.from_coco([row["segmentation"] for row in rows], size) if rows else RLE.empty(size)
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels, scores = torch.tensor(body["labels"], dtype=torch.int64), torch.tensor([row["score"] for row in rows])
        found = Instances(
            size, boxes, masks, labels, scores.reshape(-1).float(), categories=tuple(self.predictor.categories)
        )
        return found, body, float(head["seconds"])

    def associate(self, num: int) -> dict[int, Track]:
        """Make tracks; those of enough frames."""
        tracker, tracks = Tracker(self.options.tracker), defaultdict[int, Track](Track)
        for frame in range(num):
            found, body, _ = self.found(frame)
            assert found.masks is not None and found.scores is not None
            looks = np.array(body["looks"]).reshape(len(found), -1)
            numbers = tracker.update(found.masks, found.scores.numpy(), looks)
            self.numbers.append(numbers)
            for number, label, score in zip(
                numbers.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            ):
                if number:
                    one = tracks[number]
                    one.frames, one.scores = one.frames + 1, one.scores + score
                    one.votes[label] += score
        return {number: one for number, one in tracks.items() if one.frames >= self.options.min_frames}

    def write(self, kept: dict[int, Track]) -> None:
        """All files, frame by frame."""
        out, save = self.journal.out, self.options.save
        images = self.frames() if "overlay" in save else itertools.repeat(None, len(self.sources))
        with contextlib.ExitStack() as stack:
            table = stack.enter_context(self.journal.replacing(out / TABLE))
            mots = stack.enter_context(self.journal.replacing(out / MOTS)) if "mots" in save else None
            segments = stack.enter_context(contextlib.closing(_Segments()))
            movie = Movie(out / OVERLAY) if "overlay" in save else None
            table.write(COLUMNS.encode())
            for frame, image in enumerate(images):
                found, masks, seconds = self.tracked(frame, kept)
                table.write("".join(_rows(frame, seconds, found)).encode())
                for number, mask in zip(_ids(found), masks, strict=True):
                    segments.add(number, frame, compact_json(mask))
                labels = _label_map(found) if {"mots", "davis"} & set(save) else None
                if mots is not None and labels is not None:
                    mots.write("".join(_mots_rows(frame, found, labels)).encode())
                if "davis" in save and labels is not None:
                    numbers = np.array([0, *_ids(found)])
                    self.journal.write(out / DAVIS / f"{frame:05d}.png", label_png(numbers[labels]))
                if movie is not None and image is not None:
                    movie.add(image.seconds, draw.overlay(image.image, found))
            if movie is not None:
                movie.close()
            with self.journal.replacing(out / VIDEO_JSON) as file:
                for part in self._youtube_vis(kept, segments):
                    file.write(part.encode())
        if "mots" not in save:
            (out / MOTS).unlink(missing_ok=True)

    def tracked(self, frame: int, kept: dict[int, Track]) -> tuple[Instances, list[Any], float]:
        """The objects of a frame that belong to tracks, with their numbers and classes; their masks as COCO's runs."""
        found, body, seconds = self.found(frame)
        numbers = self.numbers[frame]
        some = np.array([number in kept for number in numbers.tolist()], bool)
        ids = torch.from_numpy(numbers[some])
        labels = torch.tensor([kept[number].label for number in ids.tolist()], dtype=torch.int64)
        masks = [body["objects"][place]["segmentation"] for place in np.flatnonzero(some).tolist()]
        return replace(found[some], track_ids=ids, labels=labels), masks, seconds

    def _youtube_vis(self, kept: dict[int, Track], segments: _Segments) -> Iterator[str]:
        """One track after another."""
        head = self.journal.header(self.sources[0])
        categories = self.predictor.categories
        video = {"id": 1, "width": head["width"], "height": head["height"], "length": len(self.sources),
                 "file_names": [source.name for source in self.sources]}  # fmt: skip
        yield f'{{"videos":[{compact_json(video)}],\n'
        yield f'"categories":{compact_json([category_to_dict(c) for c in categories])},\n"annotations":['
        for row, (number, one) in enumerate(kept.items()):
            category = categories[one.label].id if one.label < len(categories) else one.label + 1
            about = {"id": number, "video_id": 1, "category_id": category, "score": round(one.score, 6), "iscrowd": 0}
            yield f'{"," if row else ""}\n{compact_json(about)[:-1]},"segmentations":['
            for frame in range(len(self.sources)):
                yield "," if frame else ""
                yield segments.text(number, frame)
            yield "]}"
        yield "]}\n"


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


class _Segments:
    """Texts of the masks of tracks, which come frame by frame and are written track by track: on the disk meanwhile."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()
        self.places: defaultdict[int, dict[int, int]] = defaultdict(dict)

    def add(self, number: int, frame: int, text: str) -> None:
        """A line of JSON."""
        self.places[number][frame] = self.file.tell()
        self.file.write(text.encode() + b"\n")

    def text(self, number: int, frame: int) -> str:
        """What was added; null where nothing was."""
        place = self.places[number].get(frame)
        if place is None:
            return "null"
        self.file.seek(place)
        return self.file.readline().decode().rstrip("\n")

    def close(self) -> None:
        """The file is gone."""
        self.file.close()


def _ids(found: Instances) -> list[int]:
    assert found.track_ids is not None
    return [int(number) for number in found.track_ids.tolist()]


def _rows(frame: int, seconds: float, found: Instances) -> Iterator[str]:
    assert found.masks is not None and found.scores is not None
    areas = found.masks.area().tolist()
    columns = zip(_ids(found), found.label_names, found.scores.tolist(), found.boxes.tolist(), areas, strict=True)
    for number, name, score, box, area in columns:
        name = f'"{name}"' if "," in name else name
        yield f"{frame},{seconds:.4f},{number},{name},{score:.4g},{','.join(f'{v:g}' for v in box)},{area}\n"


def _label_map(found: Instances) -> np.ndarray:
    """(H, W): which object each pixel shows, from 1."""
    return found.to_label_map() if len(found) else np.zeros(found.image_size, np.int32)


def _mots_rows(frame: int, found: Instances, labels: np.ndarray) -> Iterator[str]:
    """frame, object, class, height, width, RLE; classes and objects from 1, no pixel in two masks."""
    visible = np.unique(labels[labels > 0]) - 1
    for place, mask in zip(visible.tolist(), RLE.from_label_map(labels).to_coco(), strict=True):
        label = int(found.labels[place]) + 1
        text = mask["counts"] if isinstance(mask["counts"], str) else mask["counts"].decode()
        height, width = found.image_size
        yield f"{frame} {label * 1000 + _ids(found)[place]} {label} {height} {width} {text}\n"


def label_png(labels: np.ndarray) -> bytes:
    """DAVIS's PNG of a frame: a number at each pixel (H, W), with a palette as long as 8 bits are enough."""
    data = io.BytesIO()
    if labels.max(initial=0) < 255:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette([0, 0, 0, *(value for number in range(1, 256) for value in draw.color(number))])
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    image.save(data, "PNG")
    return data.getvalue()
