"""The shell of all pages: everything foreign is escaped, sections become what their values are."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from eachmask.files import html, svg
from eachmask.files.sections import Chart, Figure, Section, Table

EVIL = "<script>alert('x')</script>"


class Balanced(HTMLParser):
    """Every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not {"href", "onload", "onclick"} & {name for name, _ in attrs}
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _section(**parts) -> Section:
    return Section("key", EVIL, {}, **parts)


def test_a_page_is_well_formed_and_escaped():
    image = np.zeros((4, 6, 3), np.uint8)
    axes = svg.Axes()
    charts = (
        Chart(EVIL, svg.heat_map([[1, 2], [0, 3]], [EVIL, "b"], EVIL, "{row} as {column}: {count}"), EVIL),
        Chart("bars", svg.bars([(EVIL, EVIL, 0.5, EVIL)], EVIL)),
        Chart("lines", axes.chart(axes.grid(EVIL) + axes.legend([EVIL], 0, 0) + axes.bar(0, 1, 0.5, EVIL), EVIL)),
    )
    section = _section(
        tables=(Table([EVIL, "b"], [[EVIL, EVIL]], EVIL), Table(["a"], [["b"]])),
        charts=charts,
        gallery={EVIL: [Figure([(EVIL, image), ("b", image)], EVIL)]},
        note=EVIL,
    )
    main = html.rendered(section) + html.facts({EVIL: [EVIL], "b": None}) + html.notes([EVIL])
    page = html.page(EVIL, html.headline(EVIL, EVIL, [(EVIL, EVIL)], EVIL), main, style="b{}")
    reader = Balanced()
    reader.feed(page)
    assert not reader.open and "<script" not in page and page.count("<svg") == 3 and page.count("<img") == 2
    assert "script-src" not in page and "default-src 'none'" in page


def test_what_is_for_machines_alone_is_not_shown():
    assert html.rendered(_section(note="a")) == "" == html.rendered(_section(gallery={"Best": []}))
    assert "<h3>" not in html.rendered(_section(gallery={"": [Figure([("", np.zeros((2, 2, 3), np.uint8))], "c")]}))


def test_curves_leave_out_what_is_no_number():
    axes = svg.Axes(x_end=10)
    assert axes.line([0, 5, 10], [0, float("nan"), 1], "#000").count(",") == 2
    assert axes.x(10) == axes.right and axes.y(1) == axes.top


def test_a_chart_of_its_own_has_a_background():
    assert "#fff" in svg.chart("", 10, 10, "", alone=True) and "#fff" not in svg.chart("", 10, 10, "")
