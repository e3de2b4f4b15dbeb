"""AP against time of the downloadable models, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from eachmask.files import html, svg
from eachmask.inference.speed import Rival, front


def speed_page(rivals: Sequence[Rival]) -> str:
    """HTML: the chart, and the same numbers as a table.

    Args:
        rivals: at least one.
    """
    ahead = front(rivals)
    ordered = sorted(rivals, key=lambda rival: rival.seconds)
    rows = [
        (one.entry.name, f"{one.ap:.1f}", f"{1000 * one.seconds:.0f}", f"{one.entry.size_mb:.0f}", one.entry.source)
        for one in ordered
    ]
    kinds = {i: "best" for i, one in enumerate(ordered) if one in ahead}
    header = html.headline(
        "Models of objects", "AP against time on this machine", note="AP as published, on COCO val2017"
    )
    table = html.table(["Model", "mask AP", "ms", "MB", "Weights"], rows, kinds=kinds)
    return html.page("Models compared", header, html.part("AP against time", speed_chart(rivals)) + table)


def speed_chart(rivals: Sequence[Rival]) -> str:
    """A dot for each model; those that no other beats are named and joined."""
    ahead = front(rivals)
    end = ceil(10 * max(rival.seconds for rival in rivals)) * 100
    axes = svg.Axes(width=920, right=906, height=420, bottom=376, x_end=end, y_end=50)
    parts = [axes.grid("ms of one image of 640 x 480 px; upwards mask AP, per cent", form="{:.0f}")]
    parts.append(axes.line([1000 * one.seconds for one in ahead], [one.ap for one in ahead], svg.COLORS[0]))
    for one in rivals:
        x, chosen = 1000 * one.seconds, one in ahead
        parts.append(axes.dot(x, one.ap, svg.COLORS[0] if chosen else svg.COLORS[1]))
        if chosen:
            parts.append(svg.text(one.entry.name, axes.x(x) + 7, axes.y(one.ap) - 7))
    spoken = f"{len(rivals)} models; no other is better in less time than " + ", ".join(o.entry.name for o in ahead)
    return axes.chart("".join(parts), spoken, wide=True)
