"""What benchmarks/methods.py has measured as docs: tables, learning curves, rows of the methods' own pages."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKS = ("dsb2018", "coco-mini")
STEPS = 120
"""Of the small budget; others are tables of their own."""
CURVE_IMAGES = 8
"""Val images of the learning curves."""
COLUMNS = ("mask AP", "AP50", "AP75", "boundary AP", "box AP", "calibration error", "parameters (M)", "train images/s",
           "predict ms/image", "memory (MB)")  # fmt: skip
SPEEDS = ("train images/s", "predict ms/image")
"""Measured under the small budget alone: rows of a larger one may come from several machines."""
PANELS, WIDTH, HEIGHT = 4, 240, 190
"""Learning curves: panels in a row, and the sides of one, px."""
RELATIONS = (
    ("RoIAlign beats RoIPool", "AP75", "mask_rcnn_lite0_fpn", "mask_rcnn_lite0_fpn-roipool"),
    ("Cascade is ahead at strict overlaps", "AP75", "cascade_mask_rcnn_lite0_fpn", "mask_rcnn_lite0_fpn"),
    ("PointRend has the better outlines", "boundary AP", "pointrend_lite0_fpn", "mask_rcnn_lite0_fpn"),
    ("Mask Scoring is better calibrated", "calibration error", "mask_scoring_rcnn_lite0_fpn", "mask_rcnn_lite0_fpn"),
)
"""What the papers lead one to expect: (in words, measure, the better one, the other one)."""
START, END = "<!-- written by benchmarks/methods.py -->", "<!-- end of what it wrote -->"
PAGES = {"cascade_mask_rcnn": "cascade_rcnn", "implicit_pointrend": "pointrend", "decoupled_solo": "solo",
         "yolo_v1": "yolo"}  # fmt: skip
"""Pages whose names are not how their variants' names begin."""


def results(steps: int) -> Path:
    """Where rows of a budget are kept."""
    return ROOT / "results" / ("methods" if steps == STEPS else f"methods-{steps}")


def measured(steps: int) -> Path:
    """The rows behind the docs' table of a larger budget, from which it is continued, also on another machine."""
    return ROOT / "benchmarks" / f"methods-{steps}.json"


def rows(steps: int) -> dict[str, dict[str, Any]]:
    """What is done, by pack and variant."""
    found: dict[str, dict[str, Any]] = {pack: {} for pack in PACKS}
    if measured(steps).is_file():
        found |= json.loads(measured(steps).read_text(encoding="utf-8"))
    for pack in PACKS:
        for path in sorted(results(steps).glob(f"*-{pack}.json")):
            found[pack][path.name.removesuffix(f"-{pack}.json")] = json.loads(path.read_text())
    return found


def relations(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pack -> relation -> both values, and whether it held; only where both systems are done."""
    checked: dict[str, dict[str, Any]] = {}
    for pack, table in found.items():
        for words, measure, better, other in RELATIONS:
            values = [table.get(name, {}).get(measure) for name in (better, other)]
            if None not in values:
                held = values[0] < values[1] if measure == "calibration error" else values[0] > values[1]
                checked.setdefault(pack, {})[words] = {"better": values[0], "other": values[1], "held": held}
    return checked


def page(found: dict[str, dict[str, Any]]) -> str:
    """The measured part of docs/methods.md; what is said about it below is written by hand."""
    lines = [
        "# Every method under one small budget",
        "",
        "Written by `python benchmarks/methods.py --packs FOLDER --write` from its measurements. The same light",
        "backbone (EfficientNet-Lite0, its first three stages fixed), images, steps, batch, learning rate and seed",
        "for all; one class; at most 32 proposals per image where a system has proposals. The papers' budgets are a",
        "thousand times larger: this says how fast a method learns, not how far it goes. One run each, so",
        "differences of a few hundredths of AP are the seed's. `rtmdet_ins_nano` and `yolact_plus_r18` have backbones",
        "of their own, which start from random numbers: their rows say less. Speeds are those of one thread, memory",
        "is the peak of the process that trained and predicted.",
        "",
        "On `dsb2018` the backbone starts from ImageNet. So small a budget teaches next to nothing of photographs,",
        "so on `coco-mini` it starts from that of the first bundled `objects`, a Mask R-CNN (commit 2450e5b;",
        "`--start FILE`), which has seen these training photographs and none of those that are scored; objects",
        "smaller than an eighth of the image's longer side are ignored there, when learning and when scoring.",
        "",
    ]
    for pack, table in found.items():
        if table:
            lines += _table(pack, table, "##")
    lines += ["## What one expects", "", "| the papers say | measure | pack | expected better | other | held |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    measures = {words: measure for words, measure, _, _ in RELATIONS}
    for pack, checked in relations(found).items():
        for words, result in checked.items():
            lines.append(f"| {words} | {measures[words]} | {pack} | {result['better']:.3f} | {result['other']:.3f} | "
                         f"{'yes' if result['held'] else 'no'} |")  # fmt: skip
    return "\n".join([START, *lines, END])


def longer(found: dict[str, dict[str, Any]], steps: int) -> str:
    """The part of docs/methods.md on a larger budget."""
    lines = [
        f"## With {steps} steps",
        "",
        f"Written by `python benchmarks/methods.py --packs FOLDER --steps {steps} --write`: the same in all but the",
        "number of steps. Rows are added as they are measured; systems that are not here have not been.",
        "",
    ]
    for pack, table in found.items():
        if table:
            columns = [column for column in COLUMNS if column not in SPEEDS]
            lines += _table(pack, table, "###", f"-{steps}", columns)
            lines += [f"![AP of {CURVE_IMAGES} val images over the steps](images/methods-{pack}-{steps}.svg)", ""]
    return "\n".join([_start(steps), *lines, END])


def _start(steps: int) -> str:
    """What stands before the tables of a budget in the page."""
    return START if steps == STEPS else START.replace(".py", f".py, {steps} steps")


def draw_curves(table: dict[str, Any], pack: str) -> str:
    """All learning curves as one image: a panel for each system, its curve in front of all others."""
    from eachmask.files import svg

    curves = {name: row["curve"] for name, row in sorted(table.items(), key=lambda item: -item[1]["curve"][-1][1])}
    x_end = max(points[-1][0] for points in curves.values())
    best = max(ap for points in curves.values() for _, ap in points)
    y_end = max(1, math.ceil(5 * best)) / 5
    parts = []
    for i, (name, points) in enumerate(curves.items()):
        left, top = WIDTH * (i % PANELS) + 40, HEIGHT * (i // PANELS) + 30
        axes = svg.Axes(WIDTH, HEIGHT, left, left + WIDTH - 60, top, top + HEIGHT - 80, x_end, y_end)
        parts += [svg.text(name, left, top - 10), axes.grid("step", ticks=4, form="{:.4g}")]
        parts += [axes.line(*zip(*other, strict=True), "#d5d8dc") for other in curves.values()]
        parts.append(axes.line(*zip(*points, strict=True), svg.COLORS[0]))
    height = HEIGHT * -(-len(curves) // PANELS)
    spoken = f"AP on {pack} over the steps of {', '.join(curves)}"
    return svg.chart("".join(parts), WIDTH * PANELS, height, spoken, wide=True, alone=True)


def _table(
    pack: str, table: dict[str, Any], level: str, suffix: str = "", columns: Sequence[str] = COLUMNS
) -> list[str]:
    first = next(iter(table.values()))
    budget = (
        f"{first['steps']} steps of {first['batch']} windows of {first['size'] * 3 // 4} px from images of "
        f"{first['size']} px; {first['images']} val images."
    )
    lines = [f"{level} {pack}", "", budget, ""]
    lines += ["| system | " + " | ".join(columns) + " | |", "|---|" + "---|" * (len(columns) + 1)]
    for name, row in sorted(table.items(), key=lambda item: -item[1].get("mask AP", item[1]["box AP"] - 1)):
        cells = [_cell(column, row.get(column)) for column in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | [image](images/{name}-{pack}{suffix}.jpg) |")
    return [*lines, ""]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    digits = 3 if "AP" in name or "error" in name else 0 if name.startswith(("memory", "predict")) else 1
    return f"{value:.{digits}f}"


def block(stem: str, found: dict[str, dict[str, Any]]) -> str:
    """The rows of one method's page, docs/methods/STEM.md; empty where there is none."""
    columns = ("mask AP", "AP50", "boundary AP", "box AP", "train images/s", "predict ms/image")
    rows, shots = [], []
    for pack, table in found.items():
        for name, row in table.items():
            if _page_of(name) == stem:
                rows.append(f"| `{name}` | {pack} | " + " | ".join(_cell(c, row.get(c)) for c in columns) + " |")
                shots.append(f"![{name}, {pack}](../images/{name}-{pack}.jpg)")
    if not rows:
        return ""
    head = "Under [one small budget](../methods.md) with all other systems, on one thread, and what it then sees:"
    lines = [head, "", "| variant | pack | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    return "\n".join([START, *lines, *rows, "", *shots, END])


def _page_of(name: str) -> str:
    """The page of docs/methods/ that a row belongs to: the one with the longest name that fits."""
    stems = {path.stem: path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} | PAGES
    return stems[max((start for start in stems if name.startswith(start)), key=len, default="README")]


def write(found: dict[str, dict[str, Any]], steps: int) -> None:
    """The page, its images, and of the small budget the rows in the methods' own pages."""
    docs = ROOT / "docs"
    suffix = "" if steps == STEPS else f"-{steps}"
    (docs / "images").mkdir(exist_ok=True)
    for image in results(steps).glob("*.jpg"):
        shutil.copyfile(image, docs / "images" / f"{image.stem}{suffix}.jpg")
    if steps != STEPS:
        for pack, table in found.items():
            if table:
                (docs / "images" / f"methods-{pack}{suffix}.svg").write_text(draw_curves(table, pack), encoding="utf-8")
        _replace(docs / "methods.md", longer(found, steps), _start(steps))
        measured(steps).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    _replace(docs / "methods.md", page(found), START)
    for path in (docs / "methods").glob("*.md"):
        if path.stem != "README" and (rows_of_it := block(path.stem, found)):
            _replace(path, rows_of_it, START)


def _replace(path: Path, written: str, start: str) -> None:
    """Exchange what stands from a mark to the next end, or add it at the end."""
    before, _, rest = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(start)
    after = rest.partition(END)[2] or "\n"
    path.write_text(f"{before.rstrip()}\n\n{written}{after}".lstrip("\n"), encoding="utf-8")
