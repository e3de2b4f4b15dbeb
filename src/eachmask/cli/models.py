"""``eachmask models``: what can be loaded by name, where it comes from, what it may be used for, how good it is."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eachmask.weights.catalogue import Entry


@dataclass(frozen=True)
class ModelsOptions:
    """List the models that can be loaded by name: bundled ones first, then downloads.

    Measured scores are ours, published scores are their makers'; each stands in a column of its own.

    Examples:
      eachmask models
      eachmask models --variants
      eachmask models --json
    """

    json: bool = False
    """Print a JSON list for programs instead of a table."""
    variants: bool = False
    """List the network variants that `eachmask train` takes, instead of the trained models."""


@dataclass(frozen=True)
class Row:
    """One model of the list."""

    name: str
    summary: str
    where: str
    """bundled | cache | download"""
    source: str
    size_mb: float
    """Of the file, in units of a million bytes."""
    classes: int
    measured: dict[str, float]
    """Fractions 0..1."""
    published: dict[str, float]
    """Per cent, as their makers give them."""
    license: str


def list_models(options: ModelsOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.weights.fetch import cache_dir

    if options.variants:
        variants = all_variants()
        print(json.dumps(variants, indent=2) if options.json else _variants_text(variants))
        return 0
    rows = all_rows()
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    _print_table(rows)
    print(f"Downloads are kept in {cache_dir()}. eachmask show NAME prints a model's card.")
    return 0


def all_variants() -> dict[str, str]:
    """Variant function -> the first line of its docstring."""
    from eachmask.models import VARIANTS, variant

    return {name: (inspect.getdoc(variant(name)) or "").split("\n")[0] for name in VARIANTS}


def _variants_text(variants: Mapping[str, str]) -> str:
    width = max(map(len, variants))
    lines = [f"{name:<{width}}  {summary}" for name, summary in sorted(variants.items())]
    return "\n".join([*lines, "Train one on your own images: eachmask train NAME --data DATA --out RUN"])


def all_rows() -> list[Row]:
    """Bundled models, then the catalogue."""
    from eachmask.weights.catalogue import bundled, entries
    from eachmask.weights.file import read_info

    rows = []
    for name, path in bundled().items():
        info = read_info(path)
        rows.append(
            Row(
                name=name,
                summary=_summary(info.card) or info.variant,
                where="bundled",
                source="comes with eachmask",
                size_mb=round(path.stat().st_size / 1e6, 1),
                classes=len(info.categories),
                measured=_numbers(info.scores),
                published={},
                license=info.license,
            )
        )
    return rows + [_catalogue_row(entry) for entry in entries().values()]


def _catalogue_row(entry: Entry) -> Row:
    from eachmask.weights.fetch import cached

    return Row(
        name=entry.name,
        summary=entry.summary,
        where="cache" if cached(entry) else "download",
        source=f"{entry.source}, {entry.host}",
        size_mb=entry.size_mb,
        classes=entry.num_classes,
        measured={},
        published=entry.by_metric(),
        license=entry.license,
    )


def _summary(card: str) -> str:
    """The card's first sentence: what follows its title."""
    lines = [line.strip() for line in card.splitlines()]
    paragraph = " ".join(lines[1:]).strip() if lines and lines[0].startswith("#") else " ".join(lines)
    return paragraph.split(". ")[0].rstrip(".")[:120]


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


def _print_table(rows: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_lines=False)
    for title in ("name", "where"):
        table.add_column(title, no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    for title in ("what for", "measured by us", "published by its makers", "license"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            row.name,
            row.where,
            f"{row.size_mb:g}",
            row.summary,
            ", ".join(f"{name} {value:.3f}" for name, value in row.measured.items()) or "-",
            ", ".join(f"{name} {value:g}" for name, value in row.published.items()) or "-",
            row.license.split(";")[0],
        )
    # A pipe has no width of its own; 80 columns would break every cell into pieces.
    Console(width=None if sys.stdout.isatty() else 180).print(table)
