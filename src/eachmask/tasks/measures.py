"""Measures: what an evaluation found, for pages, for the terminal and for machines alike.

A task whose numbers are all in the sections of its report says so with :class:`SectionMeasures`; one that has more to
say (intervals, curves, a comparison on the same resampled images) derives from :class:`Measures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from eachmask.files.sections import Section, Table, json_ready, number_text
from eachmask.tasks.settings import Settings

MAX_HEADLINE = 5
"""Numbers at the top of a page."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same images through another model; both measured here."""

    name: str
    """Of the other model."""
    others: Mapping[str, float]
    """Its measures by name."""

    def section(self, name: str, found: Any) -> Section:
        """The two side by side.

        Args:
            name, found: the first model and its measures.
        """
        rows = []
        for key, value in found.values().items():
            other = self.others.get(key, nan)
            rows.append([key, number_text(value), number_text(other), signed(value - other)])
        return Section("comparison", f"Against {self.name}", {}, [Table(["", name, self.name, "difference"], rows)])

    def summary(self) -> list[str]:
        """Lines for the terminal."""
        return []

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"name": self.name, "values": json_ready(self.others)}


class Measures(ABC):
    """All measures of one model on one data set."""

    score: float = 0.0
    """Threshold of what users are shown; 0 where results have no scores."""

    @abstractmethod
    def sections(self) -> tuple[Section, ...]:
        """The parts of the report, the most important first."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """All single numbers, by the names that ``--fail-under`` and :meth:`Evaluation.value` take."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""

    def headline(self) -> list[tuple[str, str]]:
        """(number, what it is) of the measures that matter most."""
        return [(number_text(value), name) for name, value in self.values().items()][:MAX_HEADLINE]

    def about(self) -> str:
        """How much was measured besides images, for the page: ``10 detections for 12 objects``; "" where nothing."""
        return ""

    def summary(self) -> list[str]:
        """Lines for the terminal."""
        return ["  ".join(f"{name} {number_text(value)}" for name, value in self.values().items())]

    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        return []

    def compared(self, other: Any, name: str, settings: Settings) -> Comparison:
        """Against another model's measures of the same images.

        Args:
            other: of the same task.
            name: of the other model.
        """
        return Comparison(name=name, others=other.values())


@dataclass(frozen=True)
class SectionMeasures(Measures):
    """Measures that are all in the sections of the report; the numbers of the first go by their own names, those of the
    others by ``section.name``."""

    parts: tuple[Section, ...]

    def sections(self) -> tuple[Section, ...]:
        return self.parts

    def values(self) -> dict[str, float]:
        first, *rest = self.parts
        named = dict(_numbers(first.values))
        for section in rest:
            named |= {f"{section.key}.{name}": value for name, value in _numbers(section.values).items()}
        return named

    def to_json(self) -> dict[str, Any]:
        return {section.key: json_ready(section.values) for section in self.parts}


def signed(value: float) -> str:
    """A difference with its sign; a dash where there is nothing to compare."""
    return f"{value:+.3f}" if isfinite(value) else "–"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among values; None was not measurable."""
    return {
        name: nan if value is None else float(value)
        for name, value in values.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
