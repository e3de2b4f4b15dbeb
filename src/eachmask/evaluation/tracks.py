"""Tracks against their targets: folders of label maps, one per frame, whose numbers tell the objects apart.

Several clips are measured together: a clip is a folder of label maps in both folders, by its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.label_maps import numbers_in
from eachmask.metrics import davis
from eachmask.metrics.tracks import TrackedFrame, track_scores
from eachmask.metrics.video_ap import VideoTracks, video_ap
from eachmask.structures import UserError

PLACES = ("", "davis")
"""Where in a clip's folder its label maps may be: ``eachmask track --save davis`` puts them into the second."""


class Clip(NamedTuple):
    """The label maps of one clip, in the order of their names."""

    name: str
    found: list[Path]
    targets: list[Path]


def clips_in(found: Path, targets: Path) -> list[Clip]:
    """The clips of two folders: their own label maps, or else those of each folder in ``targets``.

    Raises:
        UserError: there are no label maps, or not as many of a clip in both.
    """
    if any(targets.glob("*.png")):
        pairs = [("", found, targets)]
    else:
        folders = sorted(path for path in targets.iterdir() if path.is_dir()) if targets.is_dir() else []
        pairs = [(path.name, found / path.name, path) for path in folders]
    clips = [Clip(name, _files(ours), _files(theirs)) for name, ours, theirs in pairs]
    if not clips:
        raise UserError(f"{targets} holds no label maps: one PNG for each frame is wanted, or such a folder per clip")
    for clip in clips:
        if len(clip.found) != len(clip.targets):
            where, number = clip.targets[0].parent, len(clip.targets)
            raise UserError(f"{where} has {number} label maps, but the video {len(clip.found)} frames")
    return clips


def measure_tracks(clips: Sequence[Clip], scores: Mapping[int, float] | None = None) -> dict[str, float]:
    """All measures of tracks, see :func:`scores_of_tracks`.

    Args:
        clips: from :func:`clips_in`.
        scores: as there.

    Raises:
        UserError: label maps of a frame are not of one size.
    """
    return scores_of_tracks([TracksRead.of(clip) for clip in clips], scores)


def scores_of_tracks(read: Sequence[TracksRead], scores: Mapping[int, float] | None = None) -> dict[str, float]:
    """The measures of :func:`~eachmask.metrics.tracks.track_scores`, of :func:`~eachmask.metrics.video_ap.video_ap` (as
    one class) and of DAVIS's unsupervised task.

    Args:
        read: clips.
        scores: of each track of the result; where nobody says, all are alike.
    """
    frames = [_numbered(frame, place) for place, one in enumerate(read) for frame in one.frames]
    ap = video_ap([[one.as_video(scores)] for one in read])
    measured = [one.salient for one in read if one.salient is not None and len(one.salient.j)]
    return track_scores(frames) | ap | (davis.summary(measured) if measured else {})


def measure_followed(clips: Sequence[Clip]) -> dict[str, float]:
    """J and F of DAVIS's semi-supervised task: label k of the result is object k of the first frame.

    Args:
        clips: from :func:`clips_in`.

    Raises:
        UserError: as of :func:`~eachmask.metrics.davis.semi_supervised`.
    """
    return davis.summary([followed_scores(clip) for clip in clips])


def followed_scores(clip: Clip) -> davis.Scores:
    """J and F of the objects of one clip, see :func:`measure_followed`."""
    return davis.semi_supervised(map(numbers_in, clip.found), map(numbers_in, clip.targets))


@dataclass
class TracksRead:
    """What is measured of one clip."""

    frames: list[TrackedFrame] = field(default_factory=list)
    areas: Counter[int] = field(default_factory=Counter)
    gt_areas: Counter[int] = field(default_factory=Counter)
    common: Counter[tuple[int, int]] = field(default_factory=Counter)
    salient: davis.Scores | None = None
    """Of DAVIS's unsupervised task, for which the 20 tracks with the most pixels are taken; None without objects."""

    @classmethod
    def of(cls, clip: Clip) -> TracksRead:
        """Read it, and once more where it has objects: which tracks are the largest shows at its end.

        255 in maps of 8 bits does not count.

        Raises:
            UserError: label maps of a frame are not of one size.
        """
        read = cls()
        for a, b in _maps(clip):
            frame, own = _frame(a, b)
            read.frames.append(frame)
            read.common.update(own)
            for counts, labels in ((read.areas, a), (read.gt_areas, b)):
                numbers, pixels = np.unique(labels[labels > 0], return_counts=True)
                counts.update(dict(zip(numbers.tolist(), pixels.tolist(), strict=True)))
        read.salient = _unsupervised(clip, read.areas) if read.gt_areas else None
        return read

    def as_video(self, scores: Mapping[int, float] | None) -> VideoTracks:
        """What its tracks have in common."""
        table = np.array([[self.common[t, f] for f in self.areas] for t in self.gt_areas], float)
        gt_sizes, sizes = (np.array(list(counts.values()), float) for counts in (self.gt_areas, self.areas))
        sure = np.array([1.0 if scores is None else scores.get(f, 0.0) for f in self.areas])
        return VideoTracks(table.reshape(len(gt_sizes), len(sizes)), gt_sizes, sizes, sure)


def _numbered(frame: TrackedFrame, clip: int) -> TrackedFrame:
    """Tracks of different clips are different ones."""
    return TrackedFrame(frame.targets + (clip << 32), frame.found + (clip << 32), frame.iou)


def _unsupervised(clip: Clip, areas: Counter[int]) -> davis.Scores:
    rank = {number: place for place, (number, _) in enumerate(areas.most_common(davis.MAX_PROPOSALS), start=1)}

    def ranked() -> Iterator[NDArray[Any]]:
        for path in clip.found:
            labels = numbers_in(path)
            values, inverse = np.unique(labels, return_inverse=True)
            yield np.array([rank.get(int(v), 0) for v in values])[inverse].reshape(labels.shape)

    return davis.unsupervised(ranked(), (numbers_in(path) for path in clip.targets))


def _files(folder: Path) -> list[Path]:
    for place in PLACES:
        files = sorted((folder / place).glob("*.png")) if folder.is_dir() else []
        if files:
            return files
    raise UserError(f"{folder} holds no label maps: one PNG for each frame is wanted")


def _maps(clip: Clip) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs without what does not count."""
    for found, target in zip(clip.found, clip.targets, strict=True):
        a, b = numbers_in(found).astype(np.int64), numbers_in(target)
        if a.shape != b.shape:
            raise UserError(f"{target} is {b.shape[1]} x {b.shape[0]} px, but its frame {a.shape[1]} x {a.shape[0]}")
        known = (b != davis.VOID) | (b.dtype != np.uint8)
        yield a * known, b.astype(np.int64) * known


def _frame(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[TrackedFrame, Counter[tuple[int, int]]]:
    """IoU of all that is in a frame, and the common pixels of pairs (target, result)."""
    targets, rows = np.unique(theirs, return_inverse=True)
    found, columns = np.unique(ours, return_inverse=True)
    counts = np.bincount(rows.ravel() * len(found) + columns.ravel(), minlength=len(targets) * len(found))
    table = counts.reshape(len(targets), len(found))
    union = table.sum(1)[:, None] + table.sum(0) - table
    a, b = targets > 0, found > 0
    frame = TrackedFrame(targets[a], found[b], (table / np.maximum(union, 1))[a][:, b])
    common = {(int(targets[i]), int(found[j])): int(table[i, j]) for i, j in zip(*np.nonzero(table), strict=True)}
    return frame, Counter(common)
