"""Average precision of objects in videos, as YouTube-VIS measures it.

Yang, Fan, Xu: "Video Instance Segmentation", ICCV 2019, arXiv 1905.04804. A track is one object with one score; two
tracks overlap by the sum of their common pixels over all frames, over that of their union. The rest is COCO's: at each
IoU of 0.50, 0.55 ... 0.95 the tracks of a class take, by falling score, the object they overlap most that is free;
precision is made monotone and read at 101 recalls. Where we differ: all tracks of a video count, not a hundred of each
class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.average_precision import read_at_recalls
from eachmask.metrics.coco_matches import IOUS


class VideoTracks(NamedTuple):
    """The tracks of one class in one video: N of the target, M of the result."""

    common: NDArray[np.float64]  # (N, M) px in all frames together
    target_area: NDArray[np.float64]  # (N,) px in all frames together
    found_area: NDArray[np.float64]  # (M,)
    scores: NDArray[np.float64]  # (M,)


def video_ap(videos: Iterable[Sequence[VideoTracks]]) -> dict[str, float]:
    """``ap``, ``ap50``, ``ap75`` and ``ar`` in 0..1, means over the classes with an object; NaN where none has.

    Args:
        videos: of each its classes, in one order.
    """
    values = [found for one in zip(*videos, strict=True) if (found := _of_class(one)) is not None]
    if not values:
        return dict.fromkeys(("ap", "ap50", "ap75", "ar"), math.nan)
    ap, recall = np.mean(values, 0)
    return {"ap": float(ap.mean()), "ap50": float(ap[0]), "ap75": float(ap[5]), "ar": float(recall.mean())}


def _of_class(videos: Sequence[VideoTracks]) -> NDArray[np.float64] | None:
    """(2, IoUs): AP and recall; None where there is no object."""
    num = sum(len(video.target_area) for video in videos)
    if not num:
        return None
    order = np.argsort(-np.concatenate([video.scores for video in videos]), kind="stable")
    hits = np.concatenate([_hits(video) for video in videos], 1)[:, order]  # IoUs, results
    right = hits.cumsum(1)
    ap = read_at_recalls(right / np.arange(1, len(order) + 1), right / num)
    return np.array([ap, hits.sum(1) / num])


def _hits(video: VideoTracks) -> NDArray[np.bool_]:
    """(IoUs, M): which results take an object."""
    iou = video.common / np.maximum(video.target_area[:, None] + video.found_area - video.common, 1)
    result = np.zeros((len(IOUS), len(video.scores)), bool)
    for level, least in enumerate(IOUS):
        free = np.ones(len(iou), bool)
        for column in np.argsort(-video.scores, kind="stable"):
            left = np.where(free, iou[:, column], -1.0)
            best = int(left.argmax()) if len(left) else -1
            if best >= 0 and left[best] >= least:
                free[best], result[level, column] = False, True
    return result
