"""The charts of an evaluation as SVG text: no plotting library, no script, colors from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from eachmask.metrics.calibration import Calibration
from eachmask.metrics.sweep import GRID, Sweep

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 446, 14, 256
GUIDES = (0.7, 0.85)
"""Thresholds with a line of their own: how much does a stricter one lose?"""


def sweep_chart(curve: Sweep, chosen: float) -> str:
    """Precision, recall and F1 over the score threshold, with lines at fixed thresholds and the best F1."""
    marks = []
    for value in GUIDES:
        x, i = _x(value), int(round(value * 100))
        marks.append(f'<path class="guide" d="M{x:.1f} {_TOP}V{_BOTTOM}"/>')
        marks.append(f'<text class="small" x="{x - 3:.1f}" y="{_TOP + 10}" text-anchor="end">{value:g}</text>')
        for name, line in (("precision", curve.precision), ("recall", curve.recall)):
            if isfinite(line[i]):
                marks.append(f'<circle class="{name}" cx="{x:.1f}" cy="{_y(line[i]):.1f}" r="3.5"/>')
    x, y = _x(curve.best_threshold), _y(curve.best_f1)
    marks.append(f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    if chosen not in GUIDES:
        marks.append(f'<path class="guide chosen" d="M{_x(chosen):.1f} {_TOP}V{_BOTTOM}"/>')
    lines = [("precision", curve.precision), ("recall", curve.recall), ("f1", curve.f1)]
    drawn = [f'<polyline class="{name}" points="{_points(GRID, line)}"/>' for name, line in lines]
    spoken = (
        f"Precision, recall and F1 over the score threshold; the best F1 is {curve.best_f1:.3f} "
        f"at {curve.best_threshold:.2f}"
    )
    return _frame("".join(drawn + marks), "score threshold", spoken)


def reliability_chart(found: Calibration) -> str:
    """Bars of precision per score bin against the diagonal."""
    num = len(found.count)
    bars = []
    for i, (precision, count) in enumerate(zip(found.precision, found.count, strict=True)):
        if not count:
            continue
        left, right = _x(i / num) + 1.5, _x((i + 1) / num) - 1.5
        top = _y(precision)
        title = f"scores {i / num:.1f} to {(i + 1) / num:.1f}: {count} detections, {precision:.1%} right"
        bars.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{_BOTTOM - top:.1f}"><title>{title}</title></rect>'
        )
        bars.append(f'<circle class="mean" cx="{_x(found.mean_score[i]):.1f}" cy="{top:.1f}" r="3"/>')
    diagonal = f'<path class="guide" d="M{_x(0):.1f} {_y(0):.1f}L{_x(1):.1f} {_y(1):.1f}"/>'
    return _frame("".join(bars) + diagonal, "score", "Share of right detections in each bin of scores")


def error_chart(errors: dict[str, dict[str, float]], meaning: dict[str, str]) -> str:
    """Bars of AP50 lost to each kind of error."""
    rows = [(kind, errors[kind]["ap50_lost"], errors[kind].get("count", 0)) for kind in meaning if kind in errors]
    largest = max([value for _, value, _ in rows] + [0.01])
    row_height = 34
    parts = []
    for i, (kind, value, count) in enumerate(rows):
        y = 8 + i * row_height
        width = 165 * max(value, 0) / largest
        parts.append(f'<text x="0" y="{y + 13}">{escape(kind)}</text>')
        parts.append(f'<text class="small" x="0" y="{y + 26}">{escape(meaning[kind])}</text>')
        parts.append(f'<rect class="bar" x="205" y="{y + 3}" width="{width:.1f}" height="16" rx="2"/>')
        parts.append(f'<text class="small" x="{211 + width:.1f}" y="{y + 15}">{value:.3f} ({count:,.0f})</text>')
    height = 16 + row_height * len(rows)
    return _svg("".join(parts), height, "AP50 lost to each kind of error")


def confusion_chart(matrix: Sequence[Sequence[int]], classes: Sequence[str], most: int = 20) -> str:
    """Squares of the row-normalized matrix; of many classes those with the most objects."""
    counts = np.asarray(matrix, dtype=float)
    order = np.argsort(-counts[:-1].sum(1) - counts[:, :-1].sum(0), kind="stable")[:most]
    chosen = np.append(np.sort(order), len(classes))
    names = [*classes, "(none)"]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side, left, top = min(34.0, 300 / len(chosen)), 120, 92
    parts = []
    for row, i in enumerate(chosen):
        y = top + row * side
        parts.append(_label(names[i], left - 6, y + side / 2 + 4, "end"))
        parts.append(_label(names[i], left + row * side + side / 2 + 4, top - 6, "start", turned=True))
        for column, j in enumerate(chosen):
            x = left + column * side
            title = f"true {names[i]}, predicted {names[j]}: {int(counts[i, j])}"
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}" '
                f'fill-opacity="{0.04 + 0.96 * share[i, j]:.3f}"><title>{escape(title)}</title></rect>'
            )
    return _svg("".join(parts), top + side * len(chosen) + 6, "Confusion of classes: rows true, columns predicted")


def _label(name: str, x: float, y: float, anchor: str, turned: bool = False) -> str:
    short = escape(name if len(name) <= 16 else name[:15] + "…")
    turn = f' transform="rotate(-60 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{short}</text>'


def _frame(content: str, label: str, spoken: str) -> str:
    """Axes from 0 to 1 around the content."""
    ticks = []
    for i in range(6):
        value = i / 5
        ticks.append(f'<path class="grid" d="M{_LEFT} {_y(value):.1f}H{_RIGHT}"/>')
        ticks.append(f'<text class="small" x="{_LEFT - 7}" y="{_y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        ticks.append(
            f'<text class="small" x="{_x(value):.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    middle = (_LEFT + _RIGHT) / 2
    ticks.append(f'<text class="small" x="{middle}" y="{_BOTTOM + 36}" text-anchor="middle">{escape(label)}</text>')
    return _svg("".join(ticks) + content, HEIGHT, spoken)


def _svg(content: str, height: float, spoken: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(spoken)}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'xmlns="http://www.w3.org/2000/svg">{content}</svg>'
    )


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in zip(x, y, strict=True) if isfinite(b))


def _x(value: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * float(value)


def _y(value: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * float(value)
