"""Losses and scores of a run as one SVG image, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite
from pathlib import Path

from eachmask.files.atomic import write_text

WIDTH, HEIGHT, MARGIN = 720, 260, 48
COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


def write_curves(path: Path, history: Sequence[dict[str, float]], best: str) -> None:
    """Draw two panels over steps: what should fall (losses) and what should rise (scores).

    Args:
        history: rows with ``step`` and numbers; those within 0..1 from ``best`` on are scores.
        best: name of the first score; columns before it are losses.
    """
    names = [name for name in history[-1] if name != "step"]
    first = names.index(best)
    panels = [("losses", names[:first]), ("scores on val", names[first:])]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{2 * HEIGHT}" fill="white"/>'
    ]
    for i, (title, columns) in enumerate(panels):
        parts.append(f'<g transform="translate(0 {i * HEIGHT})">{_panel(title, columns, history)}</g>')
    write_text(path, "".join(parts) + "</svg>")


def _panel(title: str, names: Sequence[str], history: Sequence[dict[str, float]]) -> str:
    values = [row[name] for row in history for name in names if name in row and isfinite(row[name])]
    top = max(values, default=1.0) or 1.0
    last = history[-1]["step"]
    left, right, bottom = MARGIN, WIDTH - 150, HEIGHT - 30

    def point(row: dict[str, float], name: str) -> str:
        x = left + (right - left) * row["step"] / last
        return f"{x:.1f},{bottom - (bottom - 24) * row[name] / top:.1f}"

    out = [
        f'<text x="{left}" y="16" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{left} 24V{bottom}H{right}" fill="none" stroke="#9ca3af"/>',
        f'<text x="{left - 6}" y="30" text-anchor="end">{top:.3g}</text>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">step {last:.0f}</text>',
    ]
    for i, name in enumerate(names):
        points = " ".join(point(row, name) for row in history if name in row and isfinite(row[name]))
        color = COLORS[i % len(COLORS)]
        out.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        out.append(f'<text x="{right + 10}" y="{36 + 16 * i}" fill="{color}">{escape(name)}</text>')
    return "".join(out)
