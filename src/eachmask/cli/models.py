"""``eachmask models`` and ``eachmask show``: what can be loaded by name, and what is known about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ModelsOptions:
    """List the models that can be loaded by name: bundled ones first, then downloads.

    Measured scores are ours, published scores are their makers'; each stands in a column of its own.

    Examples:
      eachmask models
      eachmask models --json
    """

    json: bool = False
    """Print a JSON list for programs instead of a table."""


@dataclass(frozen=True)
class ShowOptions:
    """Print a model's card and settings.

    Examples:
      eachmask show nuclei
      eachmask show runs/mine/model.safetensors
    """

    model: Annotated[str, tyro.conf.Positional]
    """A name from `eachmask models`, or a model file."""


def list_models(options: ModelsOptions) -> int:
    """Run the command; returns the exit status."""
    from eachmask.weights.catalogue import CATALOGUE, bundled
    from eachmask.weights.fetch import cached
    from eachmask.weights.file import read_info

    rows = []
    for name, path in bundled().items():
        info = read_info(path)
        rows.append(
            {
                "name": name,
                "where": "bundled",
                "size_mb": round(path.stat().st_size / 1e6, 1),
                "classes": len(info.categories),
                "measured": info.scores,
                "published": {},
                "licence": info.licence,
            }
        )
    for entry in CATALOGUE:
        rows.append(
            {
                "name": entry.name,
                "where": "cache" if cached(entry) else "download",
                "size_mb": entry.size_mb,
                "classes": sum(c.name != "N/A" for c in entry.categories),
                "measured": {},
                "published": dict(entry.published),
                "licence": entry.licence,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    return 0


def show(options: ShowOptions) -> int:
    """Run the command; returns the exit status."""
    from rich.console import Console
    from rich.markdown import Markdown

    from eachmask.weights.catalogue import Entry, find
    from eachmask.weights.fetch import is_path
    from eachmask.weights.file import read_info

    console = Console()
    found = options.model if is_path(options.model) else find(options.model)
    if isinstance(found, Entry):
        info = found.info()
        console.print(f"[bold]{found.name}[/bold]: {found.source}, {found.size_mb} MB to download from {found.url}")
        for what, value in found.published.items():
            console.print(f"published, not measured by us: {what} {value:.3f}")
    else:
        info = read_info(found)
        if info.card:
            console.print(Markdown(info.card))
    settings = asdict(info)
    settings.pop("card")
    settings["categories"] = [category["name"] for category in settings["categories"]]
    for key, value in settings.items():
        if value not in (None, "", {}, ()):
            console.print(f"[bold]{key}[/bold]: {value}", highlight=False)
    return 0


def _print_table(rows: list[dict]) -> None:  # type: ignore[type-arg]
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("name", "where", "MB", "classes"):
        table.add_column(column, no_wrap=True)
    for column in ("measured by us", "published by its makers", "licence"):
        table.add_column(column, overflow="fold")
    for row in rows:
        scores = ["\n".join(f"{k} {v:.3f}" for k, v in row[kind].items()) for kind in ("measured", "published")]
        table.add_row(
            row["name"], row["where"], str(row["size_mb"]), str(row["classes"]), *scores, row["licence"]
        )
    Console().print(table)
