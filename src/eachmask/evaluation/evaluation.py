"""Evaluation: all numbers about one model on one data set, as one value that a report or a machine can read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eachmask.evaluation.gallery import Pair
from eachmask.evaluation.report import evaluation_html
from eachmask.files.atomic import write_text
from eachmask.files.sections import Section, json_ready
from eachmask.structures import UserError
from eachmask.tasks.measures import Comparison, Measures


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All measures of one model on one data set, and what they are about.

    What the task has measured is at hand by its own names as well: ``found.coco`` of objects is
    ``found.measures.coco``.
    """

    task: str
    name: str
    data: str
    num_images: int
    measures: Measures
    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    """What the makers of the model say, on their data; never measured here."""
    best: list[Pair] = field(default_factory=list)
    worst: list[Pair] = field(default_factory=list)
    """Images that it does well and badly at the threshold, for the report alone."""
    unread: list[str] = field(default_factory=list)
    """Why images were left out, one sentence each; in the file they are among the notes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "measures" not in self.__dict__:  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.measures, name)

    @property
    def sections(self) -> tuple[Section, ...]:
        """What the task has to say, the most important first."""
        return self.measures.sections()

    def value(self, name: str) -> float:
        """One measure by name: ``ap`` (of masks), ``bbox.ap50``, ``boundary.ap``, ``pq``, ``miou``, ``mad`` ...

        Raises:
            UserError: there is no such measure.
        """
        known = self.values()
        if name not in known:
            raise UserError(f"there is no measure {name!r}; there are: {', '.join(known)}")
        return known[name]

    def values(self) -> dict[str, float]:
        """All single numbers by name."""
        return self.measures.values()

    def to_json(self) -> dict[str, Any]:
        """For machines: what is not a number becomes null."""
        about = {"name": self.name, "data": self.data, "num_images": self.num_images}
        comparison = None if self.comparison is None else self.comparison.to_json()
        measured = self.measures.to_json() | about | {"comparison": comparison, "notes": self.notes}
        return {"task": self.task, "measured": measured, "published_by_others": json_ready(self.published)}

    def to_html(self) -> str:
        """One page with everything in it."""
        return evaluation_html(self)

    def save(self, folder: Path) -> None:
        """Write ``evaluation.json`` and ``report.html``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "evaluation.json", json.dumps(self.to_json(), indent=1))
        write_text(folder / "report.html", self.to_html())
