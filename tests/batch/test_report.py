from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from eachmask.batch import report
from eachmask.batch.report import ReportImage, write_report
from eachmask.batch.results import Failure, Summary

EVIL = '<script>alert("x")</script>&\'.png'
SUMMARY = Summary(
    model={"name": "m<b>", "license": "MIT"}, images=3, done=2, failed=1, skipped=1, objects=9,
    objects_per_class={EVIL: 5, "dog": 4}, failures=[Failure(EVIL, "is <empty>")],
    skipped_files=[Failure("a.txt", "no image")], settings={"--score": 0.5, "--classes": []},
)  # fmt: skip
IMAGES = [
    ReportImage(f"sub/{EVIL}", 40, 30, 5, 0.75, {EVIL: 5}, "AAAA", f"overlays/sub/{EVIL}.jpg"),
    ReportImage("b #1.png", 40, 30, 4, None, {"dog": 4}, "BBBB", ""),
]


class _Tags(HTMLParser):
    VOID = ("meta", "img", "input", "wbr", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page(summary: Summary = SUMMARY, images: list[ReportImage] = IMAGES) -> str:
    handle = io.BytesIO()
    write_report(handle, summary, lambda: images)
    return handle.getvalue().decode()


def test_a_class_that_several_images_show_is_counted_once() -> None:
    handle = io.BytesIO()
    write_report(handle, SUMMARY, lambda: IMAGES, noun="class")
    assert "<h1>2 classes in 2 images</h1>" in handle.getvalue().decode()
    assert "<h1>9 objects in 2 images</h1>" in _page()


def test_page_is_well_formed_and_loads_nothing_from_outside() -> None:
    page = _page()
    parser = _Tags()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    for tag, attributes in parser.tags:
        assert tag not in ("link", "iframe", "object")
        assert "src" not in attributes or (attributes["src"] or "").startswith("data:image/jpeg;base64,")
        if "href" in attributes:
            assert re.match(r"^(#|overlays/|predictions.json|instances.csv|summary.json)", attributes["href"] or "")
    assert not re.search(r"https?://|url\(|@import", page)


def test_names_are_escaped_and_links_are_encoded() -> None:
    page = _page()
    assert "<script>alert" not in page and "<empty>" not in page and "m<b>" not in page
    assert page.count("<script>") == 1
    links = [a["href"] for t, a in _tags(page) if t == "a" and (a["href"] or "").startswith("overlays/")]
    assert len(links) == 2 and not re.search(r"[<>\"' #]", links[0])


def _tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    return parser.tags


def test_cards_and_rows_carry_what_is_sorted_by() -> None:
    rows = [a for t, a in _tags(_page()) if "data-objects" in a]
    assert [t for t, a in _tags(_page()) if "data-objects" in a] == ["li", "li", "tr", "tr"]
    assert [(a["data-place"], a["data-objects"], a["data-score"]) for a in rows[:2]] == [
        ("0", "5", "0.75"), ("1", "4", "-1"),
    ]  # fmt: skip
    assert rows[0]["data-name"] == f"sub/{EVIL}"


def test_thumbnails_are_capped_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_THUMBNAILS", 1)
    page = _page()
    assert "AAAA" in page and "BBBB" not in page
    assert "the first 1 of 2 images" in page


def test_the_same_run_gives_the_same_bytes() -> None:
    assert _page() == _page()
    assert not re.search(r"\b20[2-9]\d\b", _page())  # no dates


def test_a_run_without_results() -> None:
    page = _page(replace(SUMMARY, done=0, objects=0, objects_per_class={}), [])
    assert "0 objects in 0 images" in page


def test_text_that_cannot_be_encoded() -> None:
    assert "\\udcff" in _page(images=[replace(IMAGES[1], name="\udcff.png")])
