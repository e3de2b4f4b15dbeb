"""Evaluate values: predictions of any task against targets, without a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from eachmask.evaluation.report import FOOTER
from eachmask.files import html
from eachmask.files.sections import Section, json_ready, number_text
from eachmask.structures import UserError
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """What predictions are worth: the sections of their task."""

    task: Task[T]
    name: str
    data: str
    num_images: int
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        """For machines: the values of every section by its key; what is not a number becomes null."""
        about = {"task": self.task.name, "name": self.name, "data": self.data, "num_images": self.num_images}
        return about | {section.key: json_ready(section.values) for section in self.sections}

    def to_html(self) -> str:
        """One page with everything in it."""
        first = self.sections[0].values.items()
        values = [(number_text(v), name) for name, v in first if isinstance(v, float)][:5]
        header = html.headline("evaluation", self.name, values, f"{self.num_images:,} images of {self.data}")
        main = "".join(html.rendered(section) for section in self.sections)
        return html.page(f"{self.name} on {self.data}", header, main, FOOTER)


def evaluate_values(
    task: Task[T],
    predictions: Iterable[T],
    targets: Iterable[T],
    settings: Settings | None = None,
    *,
    name: str = "predictions",
    data: str = "values",
) -> Measured[T]:
    """Measure predictions of any task.

    >>> import torch
    >>> from eachmask.structures import SemanticMap
    >>> from eachmask.tasks.semantic import SEMANTIC
    >>> seen, true = (SemanticMap(torch.tensor([labels])) for labels in ([0, 0, 1, 1], [0, 0, 0, 1]))
    >>> round(evaluate_values(SEMANTIC, [seen], [true]).to_json()["semantic"]["miou"], 3)
    0.583

    Args:
        predictions, targets: one of each image, in one order.
        name, data: of the model and of the data set, for the report.

    Raises:
        UserError: there is no image, or not one prediction for each.
    """
    found, true = list(predictions), list(targets)
    if not true:
        raise UserError(f"{data} has no images to measure on")
    if len(found) != len(true):
        raise UserError(f"{len(found)} predictions for {len(true)} images: give one for each, in order")
    return Measured(task, name, data, len(true), task.sections(found, true, settings or Settings()))
