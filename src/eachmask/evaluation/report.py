"""``report.html`` of an evaluation: the sections of its task on one page.

Scores that a model's makers publish have a table of their own: they were measured on other data, and no column here
has both.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from eachmask.files import html
from eachmask.files.sections import Figure, Section, Table, number_text
from eachmask.tasks.object_sections import KIND_WORDS, headline, sections_of

if TYPE_CHECKING:
    from eachmask.evaluation.evaluation import Comparison, Evaluation
    from eachmask.evaluation.gallery import Pair

FOOTER = (
    "<p>What each number means and how it is computed: docs/metrics.md. Numbers are fractions; a dash stands "
    "where there was nothing to measure.</p>"
)


def evaluation_html(found: Evaluation) -> str:
    """The whole page."""
    first, *rest = sections_of(found)
    sections = [first, *([] if found.comparison is None else [_comparison(found, found.comparison)]), *rest]
    sections.append(_gallery(found))
    if found.published:
        sections.append(_published(found))
    note = (
        f"{found.num_detections:,} detections for {found.num_objects:,} objects in {found.num_images:,} images of "
        f"{found.data}"
    )
    main = "".join(html.rendered(section) for section in sections) + html.part("Notes", html.notes(found.notes))
    header = html.headline("evaluation", found.name, headline(found), note)
    return html.page(f"{found.name} on {found.data}", header, main, FOOTER)


def _comparison(found: Evaluation, other: Comparison) -> Section:
    rows = []
    for kind, group in found.coco.items():
        for name in ("ap", "ap50", "ap75"):
            theirs = other.coco.get(kind, {}).get(name, float("nan"))
            gap = other.difference.get(name) if kind == "segm" else None
            sure = "" if gap is None else f"{gap.low:+.3f} to {gap.high:+.3f}{'' if gap.excludes_zero else ' (unsure)'}"
            value = group[name]
            cells = [number_text(value), number_text(theirs), _signed(value - theirs), sure]
            rows.append([f"{KIND_WORDS[kind]} {name}", *cells])
    gaps = [
        (a["ap"] - b["ap"], name, a["ap"], b["ap"])
        for name, a, b in zip(found.classes, found.per_class, other.per_class, strict=True)
        if isfinite(a["ap"]) and isfinite(b["ap"])
    ]
    gaps.sort(key=lambda row: -abs(row[0]))
    rows += [[f"class {name}", number_text(a), number_text(b), _signed(gap), ""] for gap, name, a, b in gaps[:10]]
    note = (
        "Both measured here on the same images. Intervals come from the same resampled images for both; one that spans "
        "0 says that these images cannot tell the two apart."
    )
    table = Table(["", found.name, other.name, "difference", "95% interval"], rows, note)
    return Section("comparison", f"Against {other.name}", {}, [table])


def _gallery(found: Evaluation) -> Section:
    """Galleries of the best and the worst images; nothing where the image files are not there."""
    galleries = {
        title: [_figure(pair) for pair in pairs]
        for title, pairs in (("Best", found.best), ("Worst", found.worst)) if pairs
    }  # fmt: skip
    words = f"Found on the left, from a score of {found.score:.2f} on; annotated on the right. Classes aside."
    return Section("gallery", "Images", {}, gallery=galleries, note=words if galleries else "")


def _figure(pair: Pair) -> Figure:
    return Figure([("found", pair.found), ("annotated", pair.annotated)], pair.caption)


def _published(found: Evaluation) -> Section:
    rows = [[name, f"{value:g}"] for name, value in found.published.items()]
    note = "Their data, their measurement and their units: not comparable with the tables above."
    table = Table(["Score", "as published"], rows, note)
    return Section("published", "Published by the makers of the model", {}, [table])


def _signed(value: float) -> str:
    return f"{value:+.3f}" if isfinite(value) else "–"
