"""Images of an evaluation: the images that a model does best and worst, found beside annotated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from eachmask.data.on_demand import OnDemand
from eachmask.draw import RGBImage, shrink
from eachmask.structures import UserError
from eachmask.tasks.task import Task, Verdict

T = TypeVar("T")

SIDE = 480
"""Longer side of each image, px."""
_MISSING = 3
"""After so many files that cannot be read no more are tried: results can be measured without the images."""


@dataclass(frozen=True)
class Pair:
    """One image twice."""

    found: RGBImage
    annotated: RGBImage
    caption: str


@dataclass(frozen=True)
class Images:
    """Where the images of an evaluation are."""

    read: Callable[[int], NDArray[Any]]
    """Place -> (H, W, 3); raises UserError where it is not there."""
    name: Callable[[int], str]
    """Place -> what a caption calls it."""


def ranking(task: Task[T], shown: Sequence[T], targets: Sequence[T]) -> tuple[list[int], dict[int, Verdict]]:
    """Images from best to worst by what the task thinks of each; of equals those with more in them first. Images where
    nothing is annotated are left out.

    Args:
        shown: the predictions that a user sees.
    """
    verdicts = {i: task.verdict(found, target) for i, (found, target) in enumerate(zip(shown, targets, strict=True))}
    verdicts = {i: verdict for i, verdict in verdicts.items() if verdict.content}
    return sorted(verdicts, key=lambda i: (-verdicts[i].quality, -verdicts[i].content)), verdicts


def best_and_worst(
    task: Task[T], images: Images, predictions: Sequence[T], targets: Sequence[T], score: float, most: int
) -> tuple[list[Pair], list[Pair]]:
    """The first and the last images of their :func:`ranking`; of equals those with more in them. Those whose file is
    not there are left out.

    Args:
        score: threshold of what is shown.
        most: so many of each; no image is in both.
    """
    if not most:
        return [], []
    shown = OnDemand(len(predictions), lambda place: task.shown(predictions[place], score))
    order, verdicts = ranking(task, shown, targets)
    most = min(most, (len(order) + 1) // 2)
    used: set[int] = set()

    def pairs(chosen: Sequence[int]) -> list[Pair]:
        made: list[Pair] = []
        missing = 0
        for i in chosen:
            if len(made) == most or missing == _MISSING:
                break
            try:
                image, caption = images.read(i), f"{images.name(i)}: {verdicts[i].words}"
                made.append(Pair(_drawn(task, image, shown[i]), _drawn(task, image, targets[i]), caption))
                used.add(i)
            except UserError:
                missing += 1
        return made

    best = pairs(order)
    rest = [i for i in order if i not in used]
    return best, pairs(sorted(rest, key=lambda i: (verdicts[i].quality, -verdicts[i].content))) if best else []


def _drawn(task: Task[T], image: NDArray[Any], result: Any) -> RGBImage:
    canvas, small = shrink(image, result, SIDE)
    return task.render(canvas, small, None)
