"""Section: a part of a report, as values that a page and a machine can read alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """Rows of text under heads; the first cell of a row names it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """An SVG with a title and a sentence on how to read it."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Images side by side under one caption."""

    images: Sequence[tuple[str, NDArray[np.uint8]]]
    """(what it shows, (H, W, 3)) each."""
    caption: str


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    key: str
    """Of its values in the machine-readable file."""
    title: str
    values: Mapping[str, Any]
    """JSON-ready."""
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    gallery: Mapping[str, Sequence[Figure]] | None = None
    """Heading -> figures."""
    note: str = ""


def values_table(values: Mapping[str, float]) -> Table:
    """Named numbers, a row each."""
    return Table(["Measure", "value"], [[name.replace("_", " "), number_text(value)] for name, value in values.items()])


def number_text(value: float | None) -> str:
    """Three decimals; a dash where there is nothing to measure."""
    return "–" if value is None or not isfinite(value) else f"{value:.3f}"


def json_ready(value: Any) -> Any:
    """Values for machines: arrays become lists, what is not a number becomes null."""
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
