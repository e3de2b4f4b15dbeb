"""A tracker over any detector of objects with masks: which objects of a frame are which of the frames before.

Zhang, Sun, Jiang, Yu, Weng, Yuan, Luo, Liu, Wang: "ByteTrack: Multi-Object Tracking by Associating Every Detection
Box", ECCV 2022, arXiv 2110.06864, on masks instead of boxes: a track's last mask is moved by its velocity; sure
detections take tracks by the sum of mask IoU and how alike they look (Hungarian method), then the unsure ones take what
is left of the tracks seen just now, because an object that is half hidden scores low; what is still left is recognized
by its looks; the rest of the sure ones are new, of the unsure ones nothing.

Looks are a histogram of colors within the mask, of which two agree by their Bhattacharyya coefficient, 0..1, and what
the model's own features say of the object (Wojke, Bewley, Paulus: "Simple Online and Realtime Tracking with a Deep
Association Metric", ICIP 2017, arXiv 1703.07402), of which two agree by their cosine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from eachmask.ops.linking import centers
from eachmask.structures import RLE, Masks

_BINS = 4
"""Per channel."""
_STEADY = 0.5
"""Weight of the newest frame in a track's velocity and looks."""


@dataclass(frozen=True)
class TrackerConfig:
    """How detections become tracks."""

    sure: float = 0.5
    """From this score on a detection may begin a track."""
    min_iou: float = 0.2
    """Least overlap with where a track is expected."""
    max_gap: int = 30
    """Frames that an object may be out of sight."""
    min_looks: float = 0.8
    """Least agreement of looks of what comes back elsewhere."""


@dataclass
class _Track:
    number: int
    mask: RLE
    looks: NDArray[np.float64]
    seen: int
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def expected(self, frame: int) -> RLE:
        """The mask where it should be by now."""
        dx, dy = np.rint(self.velocity * (frame - self.seen)).astype(int).tolist()
        return self.mask.shift(dx, dy, self.mask.size) if dx or dy else self.mask

    def see(self, frame: int, mask: RLE, looks: NDArray[np.float64]) -> None:
        step = (centers(mask) - centers(self.mask))[0] / (frame - self.seen)
        self.velocity = (1 - _STEADY) * self.velocity + _STEADY * step
        self.looks = (1 - _STEADY) * self.looks + _STEADY * looks
        self.mask, self.seen = mask, frame


class Tracker:
    """Follows objects through the frames of one video; it keeps a mask for each object that may come back.

    >>> mask = np.zeros((1, 8, 16), bool)
    >>> mask[0, 2:6, 2:6] = True
    >>> first, looks, tracker = RLE.from_bitmaps(mask), np.ones((1, 64)) / 8, Tracker()
    >>> numbers = [tracker.update(first.shift(dx, 0, (8, 16)), np.array([0.9]), looks).tolist() for dx in (0, 1, 2)]
    >>> numbers
    [[1], [1], [1]]
    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self.tracks: list[_Track] = []
        self._frame, self._last = -1, 0

    def update(self, masks: Masks, scores: NDArray[Any], looks: NDArray[Any]) -> NDArray[np.int64]:
        """The objects of the next frame.

        Args:
            masks: N of them, all frames of one size.
            scores: (N,) 0..1.
            looks: (N, D) from :func:`looks_of` or :func:`joined_looks`; products of two are 0..1.

        Returns:
            (N,) numbers of tracks from 1; 0: not an object after all.
        """
        self._frame += 1
        self.tracks = [t for t in self.tracks if self._frame - t.seen <= self.config.max_gap + 1]
        rle, looks = masks.to_rle(), np.asarray(looks, np.float64)
        numbers = np.zeros(len(rle), np.int64)
        sure = np.asarray(scores) >= self.config.sure
        self._by_overlap(rle, looks, numbers, np.flatnonzero(sure), self.tracks)
        just_now = [track for track in self.tracks if track.seen == self._frame - 1]
        self._by_overlap(rle, looks, numbers, np.flatnonzero(~sure), just_now)
        self._by_looks(rle, looks, numbers, np.flatnonzero(sure & (numbers == 0)))
        for i in np.flatnonzero(sure & (numbers == 0)):
            self._last += 1
            self.tracks.append(_Track(self._last, rle[int(i)], looks[i], self._frame))
            numbers[i] = self._last
        return numbers

    def _by_overlap(
        self, masks: RLE, looks: NDArray[Any], numbers: NDArray[np.int64], some: NDArray[Any], tracks: list[_Track]
    ) -> None:
        free = [track for track in tracks if track.seen < self._frame]
        if len(some) and free:
            iou = RLE.cat([track.expected(self._frame) for track in free]).iou(masks[some])
            alike = np.stack([track.looks for track in free]) @ looks[some].T
            for old, new in _assigned(iou + alike, iou >= self.config.min_iou):
                self._give(free[old], int(some[new]), masks, looks, numbers)

    def _by_looks(self, masks: RLE, looks: NDArray[Any], numbers: NDArray[np.int64], some: NDArray[Any]) -> None:
        lost = [track for track in self.tracks if track.seen < self._frame - 1]
        if len(some) and lost:
            alike = np.stack([track.looks for track in lost]) @ looks[some].T
            for old, new in _assigned(alike, alike >= self.config.min_looks):
                self._give(lost[old], int(some[new]), masks, looks, numbers)

    def _give(self, track: _Track, i: int, masks: RLE, looks: NDArray[Any], numbers: NDArray[np.int64]) -> None:
        track.see(self._frame, masks[i], looks[i])
        numbers[i] = track.number


def _assigned(gain: NDArray[Any], allowed: NDArray[Any]) -> list[tuple[int, int]]:
    """(track, detection) pairs that are allowed and whose gains have the largest sum."""
    rows, columns = linear_sum_assignment(np.where(allowed, gain, 0), maximize=True)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if allowed[a, b]]


def looks_of(image: NDArray[Any], masks: Masks) -> NDArray[np.float64]:
    """(N, 64) roots of the shares of colors within masks; a product of two is their Bhattacharyya coefficient.

    Args:
        image: (H, W, 3) uint8.

    >>> mask = RLE.from_bitmaps(np.ones((1, 4, 4), bool))
    >>> looks = looks_of(np.zeros((4, 4, 3), np.uint8), mask)
    >>> looks.shape, float((looks[0] ** 2).sum())
    ((1, 64), 1.0)
    """
    bins = image.astype(np.int64) * _BINS // 256
    codes = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    result = np.zeros((len(masks), _BINS**3))
    bitmaps = masks.to_bitmaps()
    for i, (crop, (x, y)) in enumerate(zip(bitmaps.crops, bitmaps.origins.tolist(), strict=True)):
        inside = codes[y : y + crop.shape[0], x : x + crop.shape[1]][crop]
        result[i] = np.sqrt(np.bincount(inside, minlength=_BINS**3) / max(len(inside), 1))
    return result


def joined_looks(colors: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, C + D + 1) looks, of which two agree by the mean of their colors' agreement and of (1 + cosine) / 2 of their
    features, 0..1.

    Args:
        colors: (N, C) from :func:`looks_of`.
        features: (N, D) vectors of length 1.

    >>> colors, features = np.ones((2, 4)) / 2, np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> looks = joined_looks(colors, features)
    >>> (looks @ looks.T).round(2).tolist()  # the same colors, and features that have nothing in common
    [[1.0, 0.75], [0.75, 1.0]]
    """
    return np.concatenate([colors * np.sqrt(0.5), features / 2, np.full((len(colors), 1), 0.5)], 1)
