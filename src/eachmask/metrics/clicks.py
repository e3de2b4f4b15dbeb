"""Interactive segmentation: how good an answer is after each click, and how many clicks it takes.

NoC@t is the mean number of clicks until an answer's IoU is at least t, objects that never get there counting as the
largest number of clicks (Sofiiuk et al., RITM, arXiv 2102.06583, section 4.1, which the field follows; its evaluation
code is what this equals). A later answer may be worse again: only the first success counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.ops.clicks import Click, next_click

MAX_CLICKS = 20
"""Of the protocol."""
THRESHOLDS = (0.8, 0.85, 0.9)

Answer = Callable[[Sequence[Click]], NDArray[np.bool_]]
"""(all clicks so far) -> mask (H, W)."""


@dataclass(frozen=True)
class Clicked:
    """One object, clicked until the answer was good enough."""

    clicks: tuple[Click, ...]
    ious: tuple[float, ...]
    """After each click."""

    def at(self, number: int) -> float:
        """IoU after so many clicks; where fewer were needed, after the last one."""
        return self.ious[min(number, len(self.ious)) - 1]


def clicked(
    answer: Answer,
    target: NDArray[Any],
    *,
    max_clicks: int = MAX_CLICKS,
    enough: float = 1.0,
) -> Clicked:
    """Click on one object until its answer is good enough.

    Args:
        answer: what is measured.
        target: (H, W) of 1 on the object, 0 beside it and -1 where nothing counts; or a mask.
        max_clicks: at most so many.
        enough: IoU at which no further click is made.
    """
    labels = np.asarray(target).astype(np.int8)
    found = np.zeros(labels.shape, bool)
    clicks: list[Click] = []
    ious: list[float] = []
    while len(clicks) < max_clicks and (not ious or ious[-1] < enough):
        clicks.append(next_click(labels, found, clicks))
        found = answer(clicks)
        ious.append(iou(found, labels))
    return Clicked(tuple(clicks), tuple(ious))


def iou(found: NDArray[np.bool_], target: NDArray[Any]) -> float:
    """Of a mask with an object (1), leaving out what does not count (-1); 0 where both are empty."""
    labels = np.asarray(target).astype(np.int8)
    known = labels >= 0
    common = int((found & (labels == 1)).sum())
    union = int(((found | (labels == 1)) & known).sum())
    return common / union if union else 0.0


def clicks_needed(ious: Sequence[float], threshold: float, max_clicks: int = MAX_CLICKS) -> int:
    """Number of the first click after which the IoU is at least ``threshold``; ``max_clicks`` if there is none."""
    reached = np.flatnonzero(np.asarray(ious, np.float32) >= np.float32(threshold))  # 0.9 has to reach 0.9
    return int(reached[0]) + 1 if len(reached) else max_clicks


def noc(curves: Sequence[Sequence[float]], threshold: float, max_clicks: int = MAX_CLICKS) -> tuple[float, float, int]:
    """NoC over objects, its standard deviation, and how many objects took ``max_clicks``.

    An object that succeeds exactly at the last click is counted among the last, as the reference does.

    Args:
        curves: of each object the IoU after each click.

    >>> noc([[0.7, 0.86], [0.9], [0.1, 0.2, 0.3]], 0.85, max_clicks=3)
    (2.0, 0.816496580927726, 1)
    """
    numbers = np.array([clicks_needed(ious, threshold, max_clicks) for ious in curves])
    return float(numbers.mean()), float(numbers.std()), int((numbers == max_clicks).sum())


def mean_curve(results: Sequence[Clicked], max_clicks: int = MAX_CLICKS) -> list[float]:
    """Mean IoU over objects after 1 ... ``max_clicks`` clicks; who stopped earlier stays where he was."""
    return [float(np.mean([result.at(number) for result in results])) for number in range(1, max_clicks + 1)]
