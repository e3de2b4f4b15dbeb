"""``report.html`` of an evaluation: one file with everything in it, charts as SVG, no script and no request.

All names come from files and are escaped. Scores that a model's makers publish have a table of their own: they
were measured on other data, and no column here has both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from math import isfinite, isnan
from typing import TYPE_CHECKING

from eachmask.draw import jpeg_source
from eachmask.evaluation.charts import GUIDES, confusion_chart, error_chart, reliability_chart, sweep_chart
from eachmask.metrics.tide import KINDS

if TYPE_CHECKING:
    from eachmask.evaluation.evaluation import Comparison, Evaluation
    from eachmask.evaluation.gallery import Pair
    from eachmask.metrics.bootstrap import Interval

_WORDS = {"segm": "masks", "bbox": "boxes", "keypoints": "keypoints", "boundary": "boundaries"}
_COLUMNS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
_QUALITY = {
    "pq": "panoptic quality (PQ), mean of classes",
    "sq": "its segmentation quality (SQ): IoU of what matched",
    "rq": "its recognition quality (RQ): F1 at IoU 0.5",
    "miou": "IoU of each class's pixels, mean (mIoU)",
    "dice": "Dice of each class's pixels, mean",
    "sbd": "symmetric best Dice (SBD)",
    "dic": "difference in count, objects per image (DiC)",
    "abs_dic": "absolute difference in count (|DiC|)",
    "coverage": "coverage of objects",
    "weighted_coverage": "coverage weighted by area",
}
_STYLE = """
.grid2{display:grid;gap:28px;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr))}
.panel{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;box-shadow:var(--shade)}
.panel h3{margin:0 0 8px;font-size:16px}.panel p{margin:8px 0 0;color:var(--soft);font-size:14px}
svg{width:100%;max-width:560px;height:auto;display:block;font:13px ui-sans-serif,system-ui,sans-serif;fill:var(--ink)}
svg .small{font-size:11px;fill:var(--soft)}svg .grid{stroke:var(--line)}
svg .guide{stroke:var(--soft);stroke-dasharray:4 4;fill:none}svg .chosen{stroke:var(--accent)}
svg polyline{fill:none;stroke-width:2}svg .bar,svg .cell{fill:var(--accent)}svg .bar{opacity:.75}
svg polyline.precision{stroke:#2563eb}svg polyline.recall{stroke:#d97706}svg polyline.f1{stroke:var(--accent)}
svg circle.precision{fill:#2563eb}svg circle.recall{fill:#d97706}svg .mean{fill:var(--ink)}
.pair{display:grid;gap:18px;grid-template-columns:repeat(auto-fill,minmax(min(560px,100%),1fr))}
.pair figure{margin:0}.pair div{display:grid;grid-template-columns:1fr 1fr;gap:6px}
.pair img{width:100%;border-radius:8px;display:block}.pair figcaption{font-size:14px;color:var(--soft);margin-top:4px}
svg .best{fill:none;stroke:var(--accent);stroke-width:2.5}
.grid2 .all tbody th{min-width:0}
.key b{font-weight:600}.key .p{color:#2563eb}.key .r{color:#d97706}.key .f{color:var(--accent)}
"""


def evaluation_html(found: Evaluation) -> str:
    """The whole page."""
    style = (files("eachmask.files") / "page.css").read_text(encoding="utf-8") + _STYLE
    sections = [_coco(found), _curves(found), _errors(found), _thresholded(found), _classes(found), _gallery(found)]
    if found.comparison is not None:
        sections.insert(1, _comparison(found, found.comparison))
    if found.published:
        sections.append(_published(found))
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark"><title>{escape(found.name)} on {escape(found.data)}</title>
<style>{style}</style></head><body>
<header><div><p class="kicker">eachmask &middot; evaluation</p><h1>{escape(found.name)}</h1>
<p class="note">{found.num_detections:,} detections for {found.num_objects:,} objects in {found.num_images:,} images
of {escape(found.data)}</p>
<div class="figures">{_figures(found)}</div></div></header>
<main>{"".join(sections)}{f"<section><h2>Notes</h2><ul>{notes}</ul></section>" if notes else ""}</main>
<footer><p>What each number means and how it is computed: docs/metrics.md. Numbers are fractions; a dash stands
where there was nothing to measure.</p></footer></body></html>
"""


def _figures(found: Evaluation) -> str:
    main = found.coco.get("segm") or found.coco["bbox"]
    kind = "masks" if "segm" in found.coco else "boxes"
    points = found.coco.get("keypoints")
    shown = [(f"AP of {kind}{_range(found.intervals.get('ap'))}", main["ap"]), ("AP50", main["ap50"])]
    if points is not None:
        shown = [("AP of keypoints", points["ap"]), ("their AP50", points["ap50"]), *shown]
    if found.boundary:
        shown.append(("boundary AP", found.boundary["ap"]))
    shown += [("PQ", found.quality["pq"]), ("Dice", found.quality["dice"])]
    return "".join(f'<div class="figure"><b>{_number(v)}</b><span>{escape(n)}</span></div>' for n, v in shown)


def _range(interval: Interval | None) -> str:
    if interval is None or isnan(interval.low):
        return ""
    return f" ({interval.low:.3f} to {interval.high:.3f})"


def _coco(found: Evaluation) -> str:
    groups = {**found.coco, **({"boundary": found.boundary} if found.boundary else {})}
    columns = (*_COLUMNS, "ar") if "keypoints" in groups else _COLUMNS  # of keypoints there is one AR
    rows = [[_WORDS[kind], *(_number(group.get(name)) for name in columns)] for kind, group in groups.items()]
    heads = ["Average precision of", *(name.replace("_", " ") for name in columns)]
    ranges = ", ".join(
        f"{name} {i.value:.3f} ({i.low:.3f} to {i.high:.3f})" for name, i in found.intervals.items() if isfinite(i.low)
    )
    more = f'<p class="note">95% of resampled sets of images: {ranges} (masks).</p>' if ranges else ""
    return f"<section><h2>COCO numbers</h2>{_table(heads, rows)}{more}</section>"


def _comparison(found: Evaluation, other: Comparison) -> str:
    rows = []
    for kind, group in found.coco.items():
        for name in ("ap", "ap50", "ap75"):
            theirs = other.coco.get(kind, {}).get(name, float("nan"))
            gap = other.difference.get(name) if kind == "segm" else None
            sure = "" if gap is None else f"{gap.low:+.3f} to {gap.high:+.3f}{'' if gap.excludes_zero else ' (unsure)'}"
            value = group[name]
            rows.append([f"{_WORDS[kind]} {name}", _number(value), _number(theirs), _signed(value - theirs), sure])
    gaps = [
        (a["ap"] - b["ap"], name, a["ap"], b["ap"])
        for name, a, b in zip(found.classes, found.per_class, other.per_class, strict=True)
        if isfinite(a["ap"]) and isfinite(b["ap"])
    ]
    gaps.sort(key=lambda row: -abs(row[0]))
    classes = [[f"class {name}", _number(a), _number(b), _signed(gap), ""] for gap, name, a, b in gaps[:10]]
    heads = ["", found.name, other.name, "difference", "95% interval"]
    return (
        f"<section><h2>Against {escape(other.name)}</h2>{_table(heads, rows + classes)}"
        '<p class="note">Both measured here on the same images. Intervals come from the same resampled images for '
        "both; one that spans 0 says that these images cannot tell the two apart.</p></section>"
    )


def _curves(found: Evaluation) -> str:
    panels = []
    curve = found.sweeps.get("")
    if curve is not None:
        at = [int(round(v * 100)) for v in GUIDES]
        words = " and ".join(
            f"precision {_number(curve.precision[i])}, recall {curve.recall[i]:.3f} at {i / 100:g}" for i in at
        )
        panels.append(
            f'<div class="panel"><h3>Which score threshold?</h3>{sweep_chart(curve, found.score)}'
            '<p class="key"><b class="p">precision</b>, <b class="r">recall</b> and <b class="f">F1</b> at IoU 0.5, '
            f"all classes. Best F1 {curve.best_f1:.3f} at {curve.best_threshold:.2f}; {words}.</p></div>"
        )
    scores = found.calibration
    panels.append(
        f'<div class="panel"><h3>Do scores mean what they say?</h3>{reliability_chart(scores)}'
        f"<p>Expected calibration error {_number(scores.ece)}, largest gap {_number(scores.largest_gap)}. On the "
        "dashed line a score is the share of right detections; bars below it are over-confident.</p></div>"
    )
    return f'<section><h2>Scores</h2><div class="grid2">{"".join(panels)}</div></section>'


def _errors(found: Evaluation) -> str:
    panels = [
        f'<div class="panel"><h3>What would mending each kind of error gain?</h3>{error_chart(found.tide, KINDS)}'
        "<p>AP50 gained (TIDE), and how many there are.</p></div>"
    ]
    if len(found.classes) > 1:
        panels.append(
            f'<div class="panel"><h3>What is taken for what?</h3>{confusion_chart(found.confusion, found.classes)}'
            f"<p>Rows are true, columns predicted classes, score at least {found.score:g}, IoU at least 0.5.</p></div>"
        )
    return f'<section><h2>Errors</h2><div class="grid2">{"".join(panels)}</div></section>'


def _gallery(found: Evaluation) -> str:
    """Galleries of the best and the worst images; nothing where the image files are not there."""
    galleries = "".join(
        f'<h3>{title}</h3><div class="pair">{"".join(_figure(pair) for pair in pairs)}</div>'
        for title, pairs in (("Best", found.best), ("Worst", found.worst))
        if pairs
    )
    words = f"Found on the left, from a score of {found.shown_from:.2f} on; annotated on the right. Classes aside."
    return f'<section><h2>Images</h2><p class="note">{words}</p>{galleries}</section>' if galleries else ""


def _figure(pair: Pair) -> str:
    images = "".join(
        f'<img alt="{side}: {escape(pair.caption)}" src="{jpeg_source(image)}">'
        for side, image in (("found", pair.found), ("annotated", pair.annotated))
    )
    return f"<figure><div>{images}</div><figcaption>{escape(pair.caption)}</figcaption></figure>"


def _thresholded(found: Evaluation) -> str:
    quality = [[words, _number(found.quality[name])] for name, words in _QUALITY.items()]
    names = ("score", "precision", "recall")
    counts = ("true_positives", "false_positives", "false_negatives")
    matching = [
        [iou, *(_number(row[n]) for n in names), *(f"{row[n]:,.0f}" for n in counts)]
        for iou, row in found.matching.items()
    ]
    heads = ["IoU", "TP / (TP + FP + FN)", "precision", "recall", "TP", "FP", "FN"]
    return (
        f"<section><h2>What a user sees at a score of {found.score:g}</h2>"
        f'<div class="grid2"><div>{_table(["Measure", "value"], quality)}</div>'
        f"<div>{_table(heads, matching)}</div></div></section>"
    )


def _classes(found: Evaluation) -> str:
    rows = []
    for name, row in zip(found.classes, found.per_class, strict=True):
        curve = found.sweeps.get(name)
        best = ["–", "–"] if curve is None else [_number(curve.best_f1), f"{curve.best_threshold:.2f}"]
        numbers = [_number(row.get(key)) for key in ("ap", "ap50", "ap75", "boundary_ap", "ar100", "pq")]
        rows.append([name, f"{row['objects']:,}", f"{row['detections']:,}", *numbers, *best])
    heads = [
        "Class",
        "objects",
        "detections",
        "ap",
        "ap50",
        "ap75",
        "boundary ap",
        "ar100",
        "pq",
        "best F1",
        "at score",
    ]
    return f"<section><h2>Classes</h2>{_table(heads, rows)}</section>"


def _published(found: Evaluation) -> str:
    rows = [[name, f"{value:g}"] for name, value in found.published.items()]
    return (
        f"<section><h2>Published by the makers of the model</h2>{_table(['Score', 'as published'], rows)}"
        '<p class="note">Their data, their measurement and their units: not comparable with the tables above.</p>'
        "</section>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<div class="scroll"><table class="all"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    return "–" if value is None or not isfinite(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if isfinite(value) else "–"
