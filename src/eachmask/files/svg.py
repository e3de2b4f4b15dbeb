"""Charts as SVG text: no plotting library, no script.

Each shape has the colors of a light page as attributes, so that a chart is right as a file of its own; within a page
the style sheet (``charts.css``) has the last word, for dark screens too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

import numpy as np

COLORS = ("#2563eb", "#d97706", "#0b8f7a", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
"""Of series, one after the other."""
_SOFT, _LINE, _INK, _ACCENT = "#5d636b", "#dfe2e6", "#1a1c1f", "#0b6e5f"
_BAR_ROW, _BAR_X, _BAR_WIDTH = 34, 205, 165
_CELL, _CELLS, _CELL_LEFT, _CELL_TOP = 34.0, 300.0, 120, 92
_NAME_LENGTH = 16
"""Characters of a class that a heat map shows."""


def chart(content: str, width: float, height: float, spoken: str, *, wide: bool = False, alone: bool = False) -> str:
    """The whole image.

    Args:
        spoken: what it shows, for those who cannot see it.
        wide: as broad as a page, instead of one of two beside each other.
        alone: a file of its own, with a background and a font.
    """
    ground = f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>' if alone else ""
    look = ('class="wide" ' if wide else "") + ('font-family="sans-serif" font-size="13" ' if alone else "")
    return (
        f'<svg role="img" aria-label="{escape(spoken)}" viewBox="0 0 {width:g} {height:.0f}" {look}'
        f'xmlns="http://www.w3.org/2000/svg">{ground}{content}</svg>'
    )


def text(
    what: str, x: float, y: float, *, anchor: str = "start", small: bool = True, color: str = "", turn: str = ""
) -> str:
    """Words; ``turn`` is a transformation of SVG's."""
    look = f'class="small" font-size="11" fill="{_SOFT}" ' if small else ""
    if color:  # a style is stronger than a page's style sheet
        look = f'style="fill:{color};font-size:11px;font-weight:600" '
    turned = f' transform="{turn}"' if turn else ""
    return f'<text {look}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(what)}</text>'


@dataclass(frozen=True)
class Axes:
    """A frame from (0, 0) at the lower left to ``x_end`` and ``y_end``; places in px of the image."""

    width: float = 460
    height: float = 300
    left: float = 44
    right: float = 446
    top: float = 14
    bottom: float = 256
    x_end: float = 1.0
    y_end: float = 1.0

    def x(self, value: float) -> float:
        """Where a value is from left to right."""
        return self.left + (self.right - self.left) * float(value) / self.x_end

    def y(self, value: float) -> float:
        """Where a value is from top to bottom."""
        return self.bottom - (self.bottom - self.top) * float(value) / self.y_end

    def grid(self, label: str, ticks: int = 5, form: str = "{:g}") -> str:
        """Lines, numbers and what lies along the x axis."""
        parts = []
        for i in range(ticks + 1):
            level, place = self.y_end * i / ticks, self.x_end * i / ticks
            parts.append(f'<path class="grid" stroke="{_LINE}" d="M{self.left:g} {self.y(level):.1f}H{self.right:g}"/>')
            parts.append(text(form.format(level), self.left - 7, self.y(level) + 4, anchor="end"))
            parts.append(text(form.format(place), self.x(place), self.bottom + 18, anchor="middle"))
        middle = (self.left + self.right) / 2
        return "".join(parts) + text(label, middle, self.bottom + 36, anchor="middle")

    def line(self, xs: Iterable[float], ys: Iterable[float], color: str) -> str:
        """A curve; what is not finite is left out."""
        points = [f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True) if isfinite(b)]
        return f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="2"/>'

    def dot(self, x: float, y: float, color: str = _INK, radius: float = 3.5) -> str:
        """A point on a curve."""
        kind = ' class="dot"' if color == _INK else ""
        return f'<circle{kind} cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:g}" fill="{color}"/>'

    def ring(self, x: float, y: float) -> str:
        """What is best."""
        place = f'cx="{self.x(x):.1f}" cy="{self.y(y):.1f}"'
        return f'<circle class="best" {place} r="5" fill="none" stroke="{_ACCENT}" stroke-width="2.5"/>'

    def guide(self, x: float, label: str = "", *, chosen: bool = False) -> str:
        """A dashed line from top to bottom."""
        kind, color = ("guide chosen", _ACCENT) if chosen else ("guide", _SOFT)
        words = text(label, self.x(x) - 3, self.top + 10, anchor="end") if label else ""
        return (
            f'<path class="{kind}" fill="none" stroke="{color}" stroke-dasharray="4 4" '
            f'd="M{self.x(x):.1f} {self.top:g}V{self.bottom:g}"/>{words}'
        )

    def diagonal(self) -> str:
        """Where both are equal."""
        return (
            f'<path class="guide" fill="none" stroke="{_SOFT}" stroke-dasharray="4 4" '
            f'd="M{self.left:.1f} {self.bottom:.1f}L{self.right:.1f} {self.top:.1f}"/>'
        )

    def bar(self, left: float, right: float, value: float, title: str) -> str:
        """An upright bar between two places on the x axis; ``title`` appears under the mouse."""
        x, width, y = self.x(left) + 1.5, self.x(right) - self.x(left) - 3, self.y(value)
        return (
            f'<rect class="bar" fill="{_ACCENT}" opacity=".75" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{self.bottom - y:.1f}"><title>{escape(title)}</title></rect>'
        )

    def legend(self, names: Sequence[str], x: float, y: float, colors: Sequence[str] = COLORS) -> str:
        """Names in the colors of their curves, one below the other."""
        return "".join(text(name, x, y + 16 * i, color=colors[i % len(colors)]) for i, name in enumerate(names))

    def chart(self, content: str, spoken: str, **kind: bool) -> str:
        """The whole image."""
        return chart(content, self.width, self.height, spoken, **kind)


def bars(rows: Sequence[tuple[str, str, float, str]], spoken: str, width: float = 460) -> str:
    """Lying bars.

    Args:
        rows: (name, what it means, length, what to write behind it) each.
    """
    longest = max([value for _, _, value, _ in rows] + [0.01])
    parts = []
    for i, (name, meaning, value, words) in enumerate(rows):
        y, length = 8 + i * _BAR_ROW, _BAR_WIDTH * max(value, 0) / longest
        parts.append(text(name, 0, y + 13, small=False))
        parts.append(text(meaning, 0, y + 26))
        parts.append(
            f'<rect class="bar" fill="{_ACCENT}" opacity=".75" x="{_BAR_X}" y="{y + 3}" width="{length:.1f}" '
            'height="16" rx="2"/>'
        )
        parts.append(text(words, _BAR_X + 6 + length, y + 15))
    return chart("".join(parts), width, 16 + _BAR_ROW * len(rows), spoken)


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str], spoken: str, title: str, width: float = 460) -> str:
    """Squares, each as dark as its share of its row.

    Args:
        counts: (N, N); N names.
        title: of a square, under the mouse, with ``{row}``, ``{column}`` and ``{count}``.
    """
    values = np.asarray(counts, float)
    share = values / np.maximum(values.sum(1, keepdims=True), 1)
    side = min(_CELL, _CELLS / len(names))
    parts = []
    for i, row in enumerate(names):
        y = _CELL_TOP + i * side
        x = _CELL_LEFT + i * side + side / 2 + 4
        turn = f"rotate(-60 {x:.1f} {_CELL_TOP - 6:.1f})"
        parts.append(text(_short(row), _CELL_LEFT - 6, y + side / 2 + 4, anchor="end"))
        parts.append(text(_short(row), x, _CELL_TOP - 6, turn=turn))
        for j, column in enumerate(names):
            words = title.format(row=row, column=column, count=int(values[i, j]))
            parts.append(
                f'<rect class="cell" fill="{_ACCENT}" x="{_CELL_LEFT + j * side:.1f}" y="{y:.1f}" '
                f'width="{side - 1:.1f}" height="{side - 1:.1f}" fill-opacity="{0.04 + 0.96 * share[i, j]:.3f}">'
                f"<title>{escape(words)}</title></rect>"
            )
    return chart("".join(parts), width, _CELL_TOP + side * len(names) + 6, spoken)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
