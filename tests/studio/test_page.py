"""The studio's page in a browser: it is drawn, marks, undoes, survives another tab and a broken image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from studio.made_server import PAGE, Studio, running, square

pytestmark = pytest.mark.xdist_group("browser")
LOOPBACK = {"127.0.0.1", "localhost", ""}


class Open:
    """A tab, the state behind it, and what it has asked for and complained about."""

    def __init__(self, page: Any, studio: Studio, address: str) -> None:
        self.page, self.studio, self.address = page, studio, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if "Content Security" in said.text else None)
        page.goto(address)
        page.get_by_text("coins.png").first.wait_for()

    def until(self, expression: str) -> None:
        self.page.wait_for_function(expression)

    def objects(self, number: int) -> None:
        self.page.get_by_role("application").and_(self.page.get_by_label(f", {number} object")).wait_for()

    def mark(self, right: float, down: float, button: str = "left") -> None:
        box = self.page.get_by_test_id("stage").bounding_box()
        self.page.mouse.click(box["x"] + box["width"] * right, box["y"] + box["height"] * down, button=button)


@pytest.fixture
def tab(context: Any) -> Iterator[Open]:
    with running() as (address, studio):
        yield Open(context.new_page(), studio, address)


def test_a_click_is_kept_classed_undone_and_saved(tab: Open) -> None:
    tab.page.keyboard.press("c")
    tab.mark(0.5, 0.5)
    tab.page.get_by_role("button", name="Keep").click()
    tab.objects(1)
    tab.page.keyboard.press("2")
    tab.page.get_by_role("complementary").get_by_text("cat by hand").wait_for()
    assert [action["kind"] for action in tab.studio.actions] == ["add", "change"]
    xs = tab.studio.objects[0][1]["rings"][0][::2]
    assert abs(sum(xs) / len(xs) - tab.studio.images[0].width / 2) < 2, "the center of the window is that of the image"
    tab.page.keyboard.press("Control+z")
    tab.page.keyboard.press("Control+z")
    tab.objects(0)
    tab.page.keyboard.press("Control+s")
    tab.page.get_by_text("Saved 1 image to coco.json").wait_for()
    assert tab.complaints == []


def test_hovering_asks_for_the_mask_of_a_click(tab: Open) -> None:
    tab.page.keyboard.press("c")
    box = tab.page.get_by_test_id("stage").bounding_box()
    with tab.page.expect_response("**/click") as answered:
        tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert answered.value.ok
    assert tab.studio.actions == [], "looking changes nothing"


def test_a_model_that_finds_nothing_is_said_so_until_it_finds_something(tab: Open) -> None:
    tab.page.keyboard.press("c")
    box, (width, height) = tab.page.get_by_test_id("stage").bounding_box(), tab.studio.images[0].size
    scale = min((box["width"] - 48) / width, (box["height"] - 48) / height, 16)
    tab.mark(0.5 + (10 - width / 2) * scale / box["width"], 0.5)
    tab.page.get_by_text("The model finds nothing there.").wait_for()
    assert not tab.page.get_by_role("button", name="Keep").count()
    tab.mark(0.5, 0.5)
    tab.page.get_by_role("button", name="Keep").wait_for()
    tab.page.get_by_text("The model finds nothing there.").wait_for(state="detached")


def test_a_list_that_is_cut_says_how_much_is_left(tab: Open) -> None:
    drawn = {k: Studio.made(k, 0, [square(20 + k, 20 + k, 5)]) for k in range(1, 204)}
    tab.studio.objects[0] = drawn
    tab.page.reload()
    tab.objects(203)
    tab.page.get_by_text("and 3 more: select them in the image").wait_for()
    assert tab.page.get_by_role("complementary").get_by_role("listitem").count() == 201


def test_the_next_image_is_looked_at_ahead(tab: Open) -> None:
    tab.page.get_by_label("coins.png, 0 objects").wait_for()
    with tab.page.expect_request("**/images/2/look"):
        tab.page.keyboard.press(".")
    looked = [address for address in tab.requests if address.endswith("/look")]
    assert [urlsplit(address).path for address in looked] == [f"/api/images/{i}/look" for i in range(3)], "once each"


def test_a_polygon_is_closed_by_enter(tab: Open) -> None:
    tab.page.keyboard.press("p")
    for right, down in [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6)]:
        tab.mark(right, down)
    tab.page.keyboard.press("Enter")
    tab.objects(1)
    assert len(tab.studio.actions[0]["rings"][0]) == 6


def test_a_change_in_another_tab_is_noticed(tab: Open) -> None:
    tab.studio.act(0, {"kind": "add", "category": 0, "rings": [[10, 10, 40, 10, 40, 40]]})
    tab.page.keyboard.press("c")
    tab.mark(0.5, 0.5)
    tab.page.get_by_role("button", name="Keep").click()
    tab.page.get_by_text("changed in another tab").wait_for()
    tab.objects(1)


def test_a_broken_image_is_said_and_left(tab: Open) -> None:
    tab.page.get_by_title("torn.png is truncated").click()
    tab.page.get_by_role("alert").get_by_text("torn.png is truncated; copy it again.").wait_for()
    tab.page.get_by_text("chelsea.png").first.click()
    tab.page.get_by_label("chelsea.png, 0 objects").wait_for()


def test_a_row_of_the_measures_opens_its_image_by_keys(tab: Open) -> None:
    tab.page.get_by_text("chelsea.png").first.click()
    tab.page.get_by_label("chelsea.png, 0 objects").wait_for()
    tab.page.get_by_role("tab", name="Measure").click()
    tab.page.get_by_role("button", name="Open coins.png").focus()
    tab.page.keyboard.press("Enter")
    tab.page.get_by_label("coins.png, 0 objects").wait_for()


def test_an_export_that_is_refused_says_why(tab: Open) -> None:
    tab.page.get_by_role("tab", name="Measure").click()
    tab.page.get_by_role("link", name="Tracks of videos").click()
    tab.page.get_by_text("There is nothing at this address.").wait_for()


def test_all_keys_are_on_one_page(tab: Open) -> None:
    tab.page.keyboard.press("?")
    dialog = tab.page.get_by_role("dialog")
    for text in ["Click", "Brush", "Undo", "Accept selected"]:
        dialog.get_by_text(text, exact=True).wait_for()
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_nothing_is_asked_of_anybody_else(tab: Open) -> None:
    for view in ["Models", "Measure", "Annotate"]:
        tab.page.get_by_role("tab", name=view).click()
    tab.page.get_by_test_id("stage").wait_for()
    hosts = {urlsplit(address).hostname or "" for address in tab.requests}
    assert hosts <= LOOPBACK
    assert tab.complaints == []


def test_what_is_shipped_is_small_and_of_no_machine() -> None:
    files: list[Path] = [path for path in PAGE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 150_000
    assert not [path for path in files if path.suffix == ".map"]
    assert not [
        path.name for path in files if b"/work/" in path.read_bytes() or b"sourceMappingURL" in path.read_bytes()
    ]
