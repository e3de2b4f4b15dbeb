"""Tracks against their targets: two folders of label maps, one per frame, whose numbers tell the objects apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.label_maps import numbers_in
from eachmask.metrics import davis
from eachmask.metrics.tracks import TrackedFrame, track_scores
from eachmask.metrics.video_ap import VideoTracks, video_ap
from eachmask.structures import UserError


def measure_tracks(found: Path, targets: Path, scores: Mapping[int, float]) -> dict[str, float]:
    """All measures of one video: those of :func:`~eachmask.metrics.tracks.track_scores`, of
    :func:`~eachmask.metrics.video_ap.video_ap` (as one class) and of DAVIS's unsupervised task, for which the 20 tracks
    with the most pixels are taken.

    Args:
        found, targets: folders of label maps, in the order of their names; 255 in maps of 8 bits does not count.
        scores: of each track of the result.

    Raises:
        UserError: there are no label maps, or they are not as many or not of one size.
    """
    ours, theirs = _files(found), _files(targets)
    if len(ours) != len(theirs):
        raise UserError(f"{targets} has {len(theirs)} label maps, but the video {len(ours)} frames")
    frames, areas, gt_areas = [], Counter[int](), Counter[int]()
    common: Counter[tuple[int, int]] = Counter()
    for a, b in _maps(ours, theirs):
        frame, own = _frame(a, b)
        frames.append(frame)
        common.update(own)
        for counts, labels in ((areas, a), (gt_areas, b)):
            numbers, pixels = np.unique(labels[labels > 0], return_counts=True)
            counts.update(dict(zip(numbers.tolist(), pixels.tolist(), strict=True)))
    table = np.array([[common[t, f] for f in areas] for t in gt_areas], float).reshape(len(gt_areas), len(areas))
    gt_sizes, sizes = (np.array(list(counts.values()), float) for counts in (gt_areas, areas))
    ap = video_ap([[VideoTracks(table, gt_sizes, sizes, np.array([scores.get(f, 0.0) for f in areas]))]])
    return track_scores(frames) | ap | _j_and_f(ours, theirs, areas, bool(gt_areas))


def measure_followed(found: Path, targets: Path) -> dict[str, float]:
    """J and F of DAVIS's semi-supervised task: label k of the result is object k of the first frame.

    Args:
        found, targets: folders of label maps, in the order of their names.

    Raises:
        UserError: as of :func:`~eachmask.metrics.davis.semi_supervised`, or there are no label maps.
    """
    ours, theirs = _files(found), _files(targets)
    return davis.summary([davis.semi_supervised(map(numbers_in, ours), map(numbers_in, theirs))])


def _j_and_f(ours: list[Path], theirs: list[Path], areas: Counter[int], any_object: bool) -> dict[str, float]:
    rank = {number: place for place, (number, _) in enumerate(areas.most_common(davis.MAX_PROPOSALS), start=1)}

    def ranked() -> Iterator[NDArray[Any]]:
        for path in ours:
            labels = numbers_in(path)
            values, inverse = np.unique(labels, return_inverse=True)
            yield np.array([rank.get(int(v), 0) for v in values])[inverse].reshape(labels.shape)

    measured = davis.unsupervised(ranked(), (numbers_in(path) for path in theirs))
    return davis.summary([measured]) if any_object and len(measured.j) else {}


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no label maps: there must be one PNG for each frame")
    return files


def _maps(ours: list[Path], theirs: list[Path]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs without what does not count."""
    for found, target in zip(ours, theirs, strict=True):
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
