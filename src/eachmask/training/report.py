"""``report.html`` of a training run: scores, curves, images; one file, no script and no request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from eachmask.draw import jpeg_source
from eachmask.files.atomic import write_text

STYLE = """
svg{width:100%;max-width:760px;height:auto;display:block;background:#fff;border-radius:12px}
figure{margin:0}figcaption{font-size:14px;color:var(--soft);margin-top:4px}
.pair{display:grid;gap:18px;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr))}
.pair img{width:100%;border-radius:12px;display:block}
"""


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
    style = (files("eachmask.files") / "page.css").read_text(encoding="utf-8") + STYLE
    curves = (folder / "curves.svg").read_text(encoding="utf-8")
    facts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    top = max(pages.history, key=lambda row: row[pages.best])
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark"><title>{escape(pages.title)}</title>
<style>{style}</style></head><body>
<header><div><p class="kicker">eachmask &middot; training</p><h1>{escape(pages.title)}</h1>
<div class="figures">{_figures(top, pages.best)}</div>
<p class="note">Best on val at step {top["step"]:.0f} of {pages.history[-1]["step"]:.0f}: these weights are in
model.safetensors.</p></div></header><main>
<section><h2>Curves</h2>{curves}</section>
<section><h2>Evaluations</h2><div class="scroll">{_table(pages.history, top)}</div></section>
{_gallery("Examples from val", pages.examples)}{_gallery("Worst on val", pages.worst)}
<section><h2>How it was made</h2><dl>{_facts(facts)}</dl></section></main>
<footer><p>The recipe is in recipe.py and can be run again; log.csv has every number of the curves.</p></footer>
</body></html>
"""
    path = folder / "report.html"
    write_text(path, text)
    return path


def _figures(row: dict[str, float], best: str) -> str:
    names = list(row)
    shown = [best, *(n for n in names[names.index(best) :] if n != best)][:5]
    return "".join(f'<div class="figure"><b>{row[n]:.3f}</b><span>{escape(n)} on val</span></div>' for n in shown)


def _table(history: Sequence[dict[str, float]], top: dict[str, float]) -> str:
    names = list(history[-1])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for row in history:
        cells = "".join(f"<td>{row[n]:.0f}</td>" if n == "step" else f"<td>{row.get(n, 0):.4f}</td>" for n in names)
        rows.append(f"<tr{' style=font-weight:600' if row is top else ''}>{cells}</tr>")
    return f'<table class="all"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _gallery(title: str, shots: Sequence[Shot]) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(shot.caption)}" src="{jpeg_source(shot.image)}">'
        f"<figcaption>{escape(shot.caption)}</figcaption></figure>"
        for shot in shots
    )
    return f'<section><h2>{title}</h2><div class="pair">{figures}</div></section>' if shots else ""


def _facts(facts: dict[str, Any]) -> str:
    rows = []
    for name, value in facts.items():
        shown = ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)
        rows.append(f"<dt>{escape(name)}</dt><dd>{escape(shown) if value is not None else '&ndash;'}</dd>")
    return "".join(rows)
