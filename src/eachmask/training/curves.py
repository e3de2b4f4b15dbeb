"""Losses and scores of a run as one SVG image, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from eachmask.files import svg
from eachmask.files.atomic import write_text

WIDTH, HEIGHT = 760, 280


def write_curves(path: Path, history: Sequence[dict[str, float]], best: str) -> None:
    """Draw two panels over steps: what should fall (losses) and what should rise (scores).

    Args:
        history: rows with ``step`` and numbers; those within 0..1 from ``best`` on are scores.
        best: name of the first score; columns before it are losses.
    """
    names = [name for name in history[-1] if name != "step"]
    first = names.index(best)
    panels = [("losses", names[:first]), ("scores on val", names[first:])]
    shapes = "".join(
        f'<g transform="translate(0 {i * HEIGHT})">{_panel(title, columns, history)}</g>'
        for i, (title, columns) in enumerate(panels)
    )
    spoken = "Losses, and scores on val, over the steps of the run"
    write_text(path, svg.chart(shapes, WIDTH, len(panels) * HEIGHT, spoken, wide=True, alone=True))


def _panel(title: str, names: Sequence[str], history: Sequence[dict[str, float]]) -> str:
    values = [row[name] for row in history for name in names if name in row and isfinite(row[name])]
    axes = svg.Axes(
        width=WIDTH, height=HEIGHT, left=52, right=WIDTH - 160, top=26, bottom=HEIGHT - 46,
        x_end=max(history[-1]["step"], 1.0), y_end=max(values, default=1.0) or 1.0,
    )  # fmt: skip
    parts = [svg.text(title, axes.left, 16, small=False), axes.grid("step", form="{:.3g}")]
    for i, name in enumerate(names):
        rows = [row for row in history if name in row]
        color = svg.COLORS[i % len(svg.COLORS)]
        parts.append(axes.line([row["step"] for row in rows], [row[name] for row in rows], color))
    return "".join(parts) + axes.legend(names, axes.right + 14, axes.top + 10)
