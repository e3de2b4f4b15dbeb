"""HOTA, IDF1, MOTSA and sMOTSA: whether objects are found in every frame, and keep their numbers.

Luiten, Ošep, Dendorfer, Torr, Geiger, Leal-Taixé, Leibe: "HOTA: A Higher Order Metric for Evaluating Multi-Object
Tracking", IJCV 2021, arXiv 2009.07736; Ristani, Solera, Zou, Cucchiara, Tomasi: "Performance Measures and a Data Set
for Multi-Target, Multi-Camera Tracking", ECCV 2016, arXiv 1609.01775 (IDF1); Voigtlaender, Krause, Ošep, Luiten, Sekar,
Geiger, Leibe: "MOTS: Multi-Object Tracking and Segmentation", CVPR 2019, arXiv 1902.03604 (MOTSA, sMOTSA).

    HOTA_a = sqrt(DetA_a * AssA_a),  averaged over the least IoU a = 0.05, 0.10 ... 0.95,

where DetA is the IoU of the sets of detections, and AssA the mean over matched pairs of the IoU of their two tracks.
MOTSA = (TP - FP - switches) / objects at IoU 0.5; sMOTSA puts the sum of IoUs in the place of TP.

Only one frame's masks are needed at a time: what is kept are counts.

Shapes: n objects and m results in a frame, N tracks in the target and M in the result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

ALPHAS = np.arange(1, 20) * 0.05
MIN_IOU = 0.5
"""Of what is one object, for IDF1 and MOTSA."""
_EPS = np.finfo(np.float64).eps


class TrackedFrame(NamedTuple):
    """One frame: which tracks are in it, and how well their masks agree."""

    targets: NDArray[np.int64]  # (n,) numbers of tracks, each once
    found: NDArray[np.int64]  # (m,) numbers of tracks, each once
    iou: NDArray[np.float64]  # (n, m) 0..1


@dataclass
class _Clear:
    """Counts at IoU 0.5; an object prefers the track that it had."""

    last: dict[int, int] = field(default_factory=dict)
    before: dict[int, int] = field(default_factory=dict)
    matched: int = 0
    soft: float = 0.0
    switches: int = 0

    def add(self, frame: TrackedFrame) -> None:
        """Match one more frame. One without objects or results changes nothing: an object still prefers the track that
        it had before it, as in the authors' TrackEval."""
        if not frame.iou.size:
            return
        kept = np.array([[self.before.get(t) == f for f in frame.found.tolist()] for t in frame.targets.tolist()])
        score = np.where(frame.iou >= MIN_IOU - _EPS, 1000.0 * kept.reshape(frame.iou.shape) + frame.iou, 0.0)
        rows, columns = linear_sum_assignment(score, maximize=True)
        self.before = {}
        for row, column in zip(rows, columns, strict=True):
            if score[row, column] > _EPS:
                target, track = int(frame.targets[row]), int(frame.found[column])
                self.matched += 1
                self.soft += float(frame.iou[row, column])
                self.switches += self.last.get(target, track) != track
                self.last[target] = self.before[target] = track


def track_scores(frames: Sequence[TrackedFrame]) -> dict[str, float]:
    """All measures of one video (or of one class in it).

    Returns:
        ``hota``, ``deta``, ``assa``, ``loca`` and ``idf1`` in 0..1; ``motsa``, ``smotsa`` up to 1; ``motsp``, the mean
        IoU of what is matched; and the counts ``switches``, ``tracks``, ``found_tracks``, ``objects``. NaN where there
        is neither an object nor a result.
    """
    clear = _Clear()
    objects, results = (Counter(int(i) for f in frames for i in f[part]) for part in (0, 1))
    for frame in frames:
        clear.add(frame)
    num, found = sum(objects.values()), sum(results.values())
    wrong = found - clear.matched
    return {
        **_hota(frames, objects, results),
        "idf1": _idf1(frames, objects, results),
        "motsa": _share(clear.matched - wrong - clear.switches, num),
        "smotsa": _share(clear.soft - wrong - clear.switches, num),
        "motsp": _share(clear.soft, clear.matched),
        "switches": clear.switches,
        "tracks": len(objects),
        "found_tracks": len(results),
        "objects": num,
    }


def _hota(frames: Sequence[TrackedFrame], objects: Counter[int], results: Counter[int]) -> dict[str, float]:
    """Mean over the levels of what must overlap."""
    if not objects and not results:
        return dict.fromkeys(("hota", "deta", "assa", "loca"), math.nan)
    size, own, other = _table(objects, results)
    together = np.zeros(size)
    for frame in frames:
        total = frame.iou.sum(0)[None] + frame.iou.sum(1)[:, None] - frame.iou
        share = np.divide(frame.iou, total, out=np.zeros_like(frame.iou), where=total > _EPS)
        together[_places(frame, own, other)] += share
    of_target, of_result = _counts(objects, results)
    alignment = together / np.maximum(of_target + of_result - together, _EPS)
    matches, overlap = np.zeros((len(ALPHAS), *size)), np.zeros(len(ALPHAS))
    for frame in frames:
        place = _places(frame, own, other)
        rows, columns = linear_sum_assignment(alignment[place] * frame.iou, maximize=True)
        value = frame.iou[rows, columns]
        for level, alpha in enumerate(ALPHAS):
            good = (value >= alpha - _EPS) & (value > 0)
            matches[level, place[0][rows[good], 0], place[1][0, columns[good]]] += 1
            overlap[level] += value[good].sum()
    hits = matches.sum((1, 2))
    deta = hits / (sum(objects.values()) + sum(results.values()) - hits)
    assa = (matches**2 / np.maximum(of_target + of_result - matches, 1)).sum((1, 2)) / np.maximum(hits, 1)
    loca = np.where(hits > 0, overlap / np.maximum(hits, 1), 1.0)
    values = {"hota": np.sqrt(deta * assa), "deta": deta, "assa": assa, "loca": loca}
    return {name: float(value.mean()) for name, value in values.items()}


def _idf1(frames: Sequence[TrackedFrame], objects: Counter[int], results: Counter[int]) -> float:
    """2 IDTP / (objects + results), with tracks assigned so that IDTP, the frames in which they agree, is largest."""
    size, own, other = _table(objects, results)
    together = np.zeros(size)
    for frame in frames:
        together[_places(frame, own, other)] += frame.iou >= MIN_IOU
    rows, columns = linear_sum_assignment(together, maximize=True)
    return _share(2 * float(together[rows, columns].sum()), sum(objects.values()) + sum(results.values()))


def _table(objects: Iterable[int], results: Iterable[int]) -> tuple[tuple[int, int], dict[int, int], dict[int, int]]:
    own, other = ({name: place for place, name in enumerate(names)} for names in (objects, results))
    return (len(own), len(other)), own, other


def _places(frame: TrackedFrame, own: dict[int, int], other: dict[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = np.array([own[i] for i in frame.targets.tolist()], np.int64)
    return rows[:, None], np.array([other[i] for i in frame.found.tolist()], np.int64)[None]


def _counts(objects: Counter[int], results: Counter[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.array(list(objects.values()))[:, None], np.array(list(results.values()))[None]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
