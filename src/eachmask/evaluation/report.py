"""``report.html`` of an evaluation: the sections of its task on one page.

Scores that a model's makers publish have a table of their own: they were measured on other data, and no column here
has both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eachmask.files import html
from eachmask.files.sections import Figure, Section, Table

if TYPE_CHECKING:
    from eachmask.evaluation.evaluation import Evaluation
    from eachmask.evaluation.gallery import Pair

FOOTER = (
    "<p>What each number means and how it is computed: docs/metrics.md. Numbers are fractions; a dash stands "
    "where there was nothing to measure.</p>"
)


def evaluation_html(found: Evaluation) -> str:
    """The whole page."""
    first, *rest = found.sections
    compared = [] if found.comparison is None else [found.comparison.section(found.name, found.measures)]
    sections = [first, *compared, *rest, _gallery(found), _published(found)]
    counted = f"{found.measures.about()} in ".removeprefix(" in ")
    note = f"{counted}{found.num_images:,} images of {found.data}"
    main = "".join(html.rendered(section) for section in sections) + html.part("Notes", html.notes(found.notes))
    header = html.headline("evaluation", found.name, found.measures.headline(), note)
    return html.page(f"{found.name} on {found.data}", header, main, FOOTER)


def _gallery(found: Evaluation) -> Section:
    """Galleries of the best and the worst images; nothing where the image files are not there."""
    galleries = {
        title: [_figure(pair) for pair in pairs]
        for title, pairs in (("Best", found.best), ("Worst", found.worst)) if pairs
    }  # fmt: skip
    score = f", from a score of {found.measures.score:.2f} on" if found.measures.score else ""
    words = f"Found on the left{score}; annotated on the right."
    return Section("gallery", "Images", {}, gallery=galleries, note=words if galleries else "")


def _figure(pair: Pair) -> Figure:
    return Figure([("found", pair.found), ("annotated", pair.annotated)], pair.caption)


def _published(found: Evaluation) -> Section:
    rows = [[name, f"{value:g}"] for name, value in found.published.items()]
    note = "Their data, their measurement and their units: not comparable with the tables above."
    tables = [Table(["Score", "as published"], rows, note)] if rows else []
    return Section("published", "Published by the makers of the model", {}, tables)
