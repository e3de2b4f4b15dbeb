"""Evaluate values: predictions of any task against targets, without a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from eachmask.evaluation.evaluation import Evaluation
from eachmask.evaluation.gallery import Images, best_and_worst
from eachmask.structures import UserError
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import Task

T = TypeVar("T")


def evaluate_values(
    task: Task[T],
    predictions: Iterable[T],
    targets: Iterable[T],
    settings: Settings | None = None,
    *,
    name: str = "predictions",
    data: str = "values",
    images: Images | None = None,
    others: tuple[str, Sequence[T]] | None = None,
    notes: Sequence[str] = (),
    published: Mapping[str, float] | None = None,
) -> Evaluation:
    """Measure predictions of any task.

    >>> import torch
    >>> from eachmask.structures import SemanticMap
    >>> from eachmask.tasks.semantic import SEMANTIC
    >>> seen, true = (SemanticMap(torch.tensor([labels])) for labels in ([0, 0, 1, 1], [0, 0, 0, 1]))
    >>> found = evaluate_values(SEMANTIC, [seen], [true])
    >>> round(found.value("miou"), 3), found.to_json()["measured"]["semantic"]["miou"] == found.value("miou")
    (0.583, True)

    Args:
        predictions, targets: one of each image, in one order.
        name, data: of the model and of the data set, for the report.
        images: where the images are, for the gallery; None leaves it out.
        others: name and predictions of a second model on the same images.
        notes: what a reader should know of the predictions.
        published: scores by the model's makers, only passed on.

    Raises:
        UserError: there is no image, or not one prediction for each.
    """
    settings = settings or Settings()
    found, true = _listed(predictions), _listed(targets)
    if not true:
        raise UserError(f"{data} has no images to measure on")
    for some in (found, *([] if others is None else [others[1]])):
        if len(some) != len(true):
            raise UserError(f"{len(some)} predictions for {len(true)} images: give one for each, in order")
    measures = task.measure(found, true, settings)
    comparison = None
    if others is not None:
        quick = replace(settings, boundary=False, resamples=0)
        comparison = measures.compared(task.measure(others[1], true, quick), others[0], settings)
    most = settings.gallery if images is not None else 0
    best, worst = ([], []) if images is None else best_and_worst(task, images, found, true, measures.score, most)
    return Evaluation(
        task=task.name,
        name=name,
        data=data,
        num_images=len(true),
        measures=measures,
        comparison=comparison,
        notes=[*notes, *measures.notes()],
        published=dict(published or {}),
        best=best,
        worst=worst,
    )


def _listed(values: Iterable[T]) -> Sequence[T]:
    """A sequence stays what it is: it may know more than its values."""
    return values if isinstance(values, Sequence) else list(values)
