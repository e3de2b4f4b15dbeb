"""The files about one video: a table, YouTube-VIS, DAVIS's PNGs, MOTS text, an overlay; written frame by frame."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eachmask import draw
from eachmask.batch.movie import Movie
from eachmask.data.images.inputs import Source
from eachmask.data.images.video import VideoFrame
from eachmask.files.journal import Journal, compact_json
from eachmask.structures import RLE, Category, Instances, UserError
from eachmask.structures.coco import category_to_dict

TABLE, VIDEO_JSON, MOTS, OVERLAY, DAVIS = "tracks.csv", "tracks.json", "mots.txt", "overlay.mp4", "davis"
KINDS = {"davis": DAVIS, "mots": MOTS, "overlay": OVERLAY}
RECORDING = "webcam.mp4"
"""What a camera has shown, where it is to be drawn over later."""
MADE = (TABLE, VIDEO_JSON, *KINDS.values(), RECORDING)
"""All that a run makes in its folder."""
COLUMNS = "frame,seconds,track,class,score,x1,y1,x2,y2,area\n"


@dataclass
class Track:
    """What is known of one track."""

    frames: int = 0
    scores: float = 0.0
    votes: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    def see(self, label: int, score: float) -> None:
        """One more frame in which it was found."""
        self.frames, self.scores = self.frames + 1, self.scores + score
        self.votes[label] += score

    @property
    def label(self) -> int:
        """The class that its scores say together."""
        return max(self.votes, key=lambda label: (self.votes[label], -label))

    @property
    def score(self) -> float:
        """Mean over its frames."""
        return self.scores / max(self.frames, 1)


class TrackedFrame(NamedTuple):
    """The objects of one frame that belong to tracks."""

    seconds: float
    found: Instances
    """With masks, scores and track_ids."""


def known_kinds(save: Sequence[str]) -> None:
    """Raises a UserError where something else than :data:`KINDS` is to be saved."""
    unknown = [kind for kind in save if kind not in KINDS]
    if unknown:
        raise UserError(f"--save knows {', '.join(KINDS)}, not {unknown[0]!r}")


@dataclass(frozen=True)
class TrackFiles:
    """Where the tracks of one video go.

    Args:
        sources: one per frame.
        save: of :data:`KINDS`.
    """

    journal: Journal
    sources: Sequence[Source]
    categories: Sequence[Category]
    save: Sequence[str] = ()

    def write(
        self, frames: Iterable[TrackedFrame], tracks: Mapping[int, Track], images: Iterable[VideoFrame] = ()
    ) -> None:
        """All files.

        Args:
            tracks: by their numbers.
            images: the video once more, where it is to be drawn over.
        """
        out, save, size = self.journal.out, self.save, (0, 0)
        with contextlib.ExitStack() as stack:
            table = stack.enter_context(self.journal.replacing(out / TABLE))
            mots = stack.enter_context(self.journal.replacing(out / MOTS)) if "mots" in save else None
            segments = stack.enter_context(contextlib.closing(_Segments()))
            movie = Movie(out / OVERLAY) if "overlay" in save else None
            table.write(COLUMNS.encode())
            drawn = itertools.chain(images, itertools.repeat(None))
            for number, ((seconds, found), image) in enumerate(zip(frames, drawn, strict=False)):
                size = found.image_size
                table.write("".join(_rows(number, seconds, found)).encode())
                assert found.masks is not None
                for track, mask in zip(_ids(found), found.masks.to_rle().to_coco(), strict=True):
                    segments.add(track, number, compact_json(mask))
                labels = _label_map(found) if {"mots", "davis"} & set(save) else None
                if mots is not None and labels is not None:
                    mots.write("".join(_mots_rows(number, found, labels)).encode())
                if "davis" in save and labels is not None:
                    self.journal.write(out / davis_name(number), label_png(np.array([0, *_ids(found)])[labels]))
                if movie is not None and image is not None:
                    movie.add(image.seconds, draw.overlay(image.image, found))
            if movie is not None:
                movie.close()
            with self.journal.replacing(out / VIDEO_JSON) as file:
                for part in self._youtube_vis(size, tracks, segments):
                    file.write(part.encode())
        if "mots" not in save:
            (out / MOTS).unlink(missing_ok=True)
        for old in (out / DAVIS).glob("*.png"):  # of a longer video, which was written here before
            if old.stem.isdigit() and int(old.stem) >= len(self.sources):
                old.unlink()

    def _youtube_vis(self, size: tuple[int, int], tracks: Mapping[int, Track], segments: _Segments) -> Iterator[str]:
        """One track after another."""
        video = {"id": 1, "width": size[1], "height": size[0], "length": len(self.sources),
                 "file_names": [source.name for source in self.sources]}  # fmt: skip
        yield f'{{"videos":[{compact_json(video)}],\n'
        yield f'"categories":{compact_json([category_to_dict(c) for c in self.categories])},\n"annotations":['
        for row, (number, one) in enumerate(tracks.items()):
            category = self.categories[one.label].id if one.label < len(self.categories) else one.label + 1
            about = {"id": number, "video_id": 1, "category_id": category, "score": round(one.score, 6), "iscrowd": 0}
            yield f'{"," if row else ""}\n{compact_json(about)[:-1]},"segmentations":['
            for frame in range(len(self.sources)):
                yield "," if frame else ""
                yield segments.text(number, frame)
            yield "]}"
        yield "]}\n"


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
        height, width = found.image_size
        yield f"{frame} {label * 1000 + _ids(found)[place]} {label} {height} {width} {mask['counts']}\n"


def davis_name(number: int) -> str:
    """Of a frame's PNG, in the results folder."""
    return f"{DAVIS}/{number:05d}.png"


def label_png(labels: np.ndarray[Any, Any]) -> bytes:
    """DAVIS's PNG of a frame: a number at each pixel (H, W), with a palette as long as 8 bits are enough."""
    data = io.BytesIO()
    if labels.max(initial=0) < 255:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette([0, 0, 0, *(value for number in range(1, 256) for value in draw.color(number))])
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    image.save(data, "PNG")
    return data.getvalue()
