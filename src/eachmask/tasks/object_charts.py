"""The charts of an evaluation of objects, over the SVG helper that all pages share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eachmask.files import svg
from eachmask.metrics.calibration import Calibration
from eachmask.metrics.sweep import GRID, Sweep

GUIDES = (0.7, 0.85)
"""Two usual thresholds: how much does a stricter one lose?"""
PRECISION, RECALL, F1 = "#2563eb", "#d97706", "#7c3aed"


def sweep_chart(curve: Sweep, chosen: float) -> str:
    """Precision, recall and F1 over the score threshold, with the lines of the guides and the best F1."""
    axes = svg.Axes()
    lines = [(curve.precision, PRECISION), (curve.recall, RECALL), (curve.f1, F1)]
    parts = [axes.grid("score threshold"), *(axes.line(GRID, values, color) for values, color in lines)]
    for value in GUIDES:
        i = int(round(value * 100))
        parts.append(axes.guide(value, f"{value:g}"))
        parts += [axes.dot(value, line[i], color) for line, color in lines[:2] if np.isfinite(line[i])]
    parts.append(axes.ring(curve.best_threshold, curve.best_f1))
    if chosen not in GUIDES:
        parts.append(axes.guide(chosen, chosen=True))
    spoken = (
        f"Precision, recall and F1 over the score threshold; the best F1 is {curve.best_f1:.3f} "
        f"at {curve.best_threshold:.2f}"
    )
    return axes.chart("".join(parts), spoken)


def reliability_chart(found: Calibration) -> str:
    """Bars of precision per score bin against the diagonal."""
    axes, num = svg.Axes(), len(found.count)
    parts = [axes.grid("score")]
    for i, (precision, count) in enumerate(zip(found.precision, found.count, strict=True)):
        if not count:
            continue
        title = f"scores {i / num:.1f} to {(i + 1) / num:.1f}: {count} detections, {precision:.1%} right"
        parts.append(axes.bar(i / num, (i + 1) / num, precision, title))
        parts.append(axes.dot(found.mean_score[i], precision, radius=3))
    return axes.chart("".join(parts) + axes.diagonal(), "Share of right detections in each bin of scores")


def error_chart(errors: dict[str, dict[str, float]], meaning: dict[str, str]) -> str:
    """Bars of AP50 lost to each kind of error."""
    rows = [
        (kind, meaning[kind], errors[kind]["ap50_lost"],
         f"{errors[kind]['ap50_lost']:.3f} ({errors[kind].get('count', 0):,.0f})")
        for kind in meaning if kind in errors
    ]  # fmt: skip
    return svg.bars(rows, "AP50 lost to each kind of error")


def confusion_chart(matrix: Sequence[Sequence[int]], classes: Sequence[str], most: int = 20) -> str:
    """Squares of the row-normalized matrix; of many classes those with the most objects."""
    counts = np.asarray(matrix)
    order = np.argsort(-counts[:-1].sum(1) - counts[:, :-1].sum(0), kind="stable")[:most]
    chosen = np.append(np.sort(order), len(classes))
    names = [*classes, "(none)"]
    return svg.heat_map(
        counts[np.ix_(chosen, chosen)].tolist(),
        [names[i] for i in chosen],
        "Confusion of classes: rows true, columns predicted",
        "true {row}, predicted {column}: {count}",
    )
