"""``report.html`` of a training run: scores, curves, images; one file, no script and no request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eachmask.files import html
from eachmask.files.atomic import write_text
from eachmask.files.sections import Figure, Section


class Shot(NamedTuple):
    """One image of the report."""

    image: Any  # (H, W, 3) uint8
    caption: str


class Pages(NamedTuple):
    """What the report shows besides the run's own files."""

    title: str
    best: str  # name of the score that chooses
    history: Sequence[dict[str, float]]
    examples: Sequence[Shot]
    worst: Sequence[Shot]


def write_report(folder: Path, pages: Pages) -> Path:
    """Write report.html of the run in ``folder``, from its curves.svg and environment.json.

    Raises:
        OSError: the folder cannot be written.
    """
    curves = (folder / "curves.svg").read_text(encoding="utf-8")
    made = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    top = max(range(len(pages.history)), key=lambda i: pages.history[i][pages.best])
    steps = (pages.history[top]["step"], pages.history[-1]["step"])
    header = html.headline(
        "training",
        pages.title,
        _figures(pages.history[top], pages.best),
        f"Best on val at step {steps[0]:.0f} of {steps[1]:.0f}: these weights are in model.safetensors.",
    )
    main = (
        html.part("Curves", f'<div class="panel">{curves}</div>')
        + html.part("Evaluations", _table(pages.history, top))
        + "".join(html.rendered(_gallery(title, shots)) for title, shots in _galleries(pages))
        + html.part("How it was made", html.facts(_facts(made)))
    )
    footer = "<p>The recipe is in recipe.py and can be run again; log.csv has every number of the curves.</p>"
    path = folder / "report.html"
    write_text(path, html.page(pages.title, header, main, footer))
    return path


def _facts(made: dict[str, Any]) -> dict[str, Any]:
    """The record, its settings one by one."""
    settings = {name: None if text == "None" else text.strip("'") for name, text in made.get("settings", {}).items()}
    return {name: value for name, value in made.items() if name != "settings"} | settings


def _figures(row: dict[str, float], best: str) -> list[tuple[str, str]]:
    names = list(row)
    shown = [best, *(n for n in names[names.index(best) :] if n != best)][:5]
    return [(f"{row[n]:.3f}", f"{n} on val") for n in shown]


def _table(history: Sequence[dict[str, float]], top: int) -> str:
    names = list(history[-1])
    rows = [[f"{row[n]:.0f}" if n == "step" else f"{row.get(n, 0):.4f}" for n in names] for row in history]
    return html.table(names, rows, kinds={top: "best"})


def _galleries(pages: Pages) -> list[tuple[str, Sequence[Shot]]]:
    return [("Examples from val", pages.examples), ("Worst on val", pages.worst)]


def _gallery(title: str, shots: Sequence[Shot]) -> Section:
    return Section("", title, {}, gallery={"": [Figure([("", shot.image)], shot.caption) for shot in shots]})
