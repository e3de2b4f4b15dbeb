"""What an annotator does besides marking: contrast, looks, flags and words, proposals one by one, measures, exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import opened, served, shows  # noqa: E402
from studio.test_tools import NAME, Hand, square  # noqa: E402

from eachmask.studio.project import Project  # noqa: E402
from eachmask.studio.schemas import Action  # noqa: E402

pytestmark = pytest.mark.xdist_group("browser")

PIXEL = """([x, y]) => {
  const stage = document.querySelector("[data-testid=stage]"), { left, top, width } = stage.getBoundingClientRect();
  const ratio = stage.width / width;
  return [...stage.getContext("2d").getImageData((x - left) * ratio, (y - top) * ratio, 1, 1).data].slice(0, 3);
}"""
"""Red, green and blue of a place of the window, on the stage."""


def pixel(page: Any, place: tuple[float, float]) -> list[int]:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found: list[int] = page.evaluate(PIXEL, list(place))
    return found


def slide(page: Any, name: str, value: float) -> None:
    page.get_by_label(name).fill(str(value))


def test_sixteen_bits_are_seen_through_a_window_of_values(context: Any, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    values = np.full((60, 80), 2000, np.uint16)
    values[:10], values[-10:] = 0, 40_000
    tifffile.imwrite(folder / "deep.tif", values, photometric="minisblack")
    with served(Project(folder)) as (address, _):
        page = opened(context, address, "deep.tif")
        page.get_by_text("80 × 60, 16 bit").wait_for()
        box = page.get_by_test_id("stage").bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_function(f"() => ({PIXEL})([{middle[0]}, {middle[1]}])[0] > 0")
        dark = pixel(page, middle)
        with page.expect_response(lambda answer: "/tile/" in answer.url and "high=2500" in answer.url) as answered:
            slide(page, "White from", 2500)
        assert answered.value.ok
        page.wait_for_function(f"() => ({PIXEL})([{middle[0]}, {middle[1]}])[0] > {dark[0]} + 60")
        page.get_by_role("button", name="Automatic contrast").click()
        page.wait_for_function(f"() => ({PIXEL})([{middle[0]}, {middle[1]}])[0] <= {dark[0]} + 2")


def test_masks_are_hidden_filled_faded_and_colored(context: Any, folder: Path) -> None:
    project = Project(folder)
    project.act(0, 0, square(20, 20, 40))
    project.act(0, 1, square(80, 80, 30))
    with served(project) as (address, _):
        page = opened(context, address, NAME, 2)
        hand = Hand(page, project)
        first, edge = hand.at(40, 40), hand.at(20, 40)
        slide(page, "Opacity", 1)
        full = pixel(page, first)
        assert full == pixel(page, hand.at(95, 95)), "of one class, of one color"
        page.get_by_label("Color by").select_option("object")
        assert pixel(page, first) != pixel(page, hand.at(95, 95))
        page.get_by_label("Color by").select_option("class")
        page.keyboard.press("Escape")
        page.get_by_test_id("stage").focus()
        page.keyboard.press("h")
        bare = pixel(page, first)
        assert bare != full and len(set(bare)) == 1, "the photograph is gray"
        page.keyboard.press("h")
        slide(page, "Opacity", 0)
        page.get_by_test_id("stage").focus()
        assert pixel(page, first) == bare and np.ptp(pixel(page, edge)) > 30, "an outline is left"
        page.keyboard.press("o")
        assert len(set(pixel(page, edge))) == 1


def test_flags_words_and_holes(context: Any, folder: Path) -> None:
    project = Project(folder)
    hole = [30.0, 30, 40, 30, 40, 40, 30, 40]
    project.act(0, 0, Action(kind="add", category=1, rings=[*square(20, 20, 40).rings, hole]))
    with served(project) as (address, _):
        page = opened(context, address, NAME, 1)
        hand = Hand(page, project)
        page.keyboard.press("n")
        (one,) = hand.done(1, lambda: page.keyboard.press("i"))
        assert one.crowd
        page.get_by_role("checkbox", name="Crowd, ignored when measured", checked=True).wait_for()

        def written(label: str, text: str) -> Any:
            page.get_by_label(label).fill(text)
            return hand.done(1, lambda: page.get_by_label(label).press("Tab"))[0]

        assert written("Comment", "half in the shade").comment == "half in the shade"
        assert written("Attributes", "side=left; worn").attributes == {"side": "left", "worn": ""}
        (filled,) = hand.done(1, lambda: page.get_by_role("button", name="Fill holes").click())
        assert (hand.area(one), hand.area(filled)) == (1500, 1600)
        for _ in range(4):
            hand.done(1, lambda: page.keyboard.press("Control+z"))
        (bare,) = project.history(0).objects.values()
        assert not bare.crowd and not bare.comment and not bare.attributes and hand.area(bare) == 1500


def test_a_polygon_snaps_to_its_neighbor(context: Any, folder: Path) -> None:
    project = Project(folder)
    project.act(0, 0, square(20, 20, 40))
    with served(project) as (address, _):
        page = opened(context, address, NAME, 1)
        hand = Hand(page, project)
        corners = [(60.9, 19.2), (100, 20), (100, 60), (60.8, 60.9)]  # two of them near those of the square

        def drawn(number: int) -> int:
            page.keyboard.press("p")
            for corner in corners:
                hand.click(*corner)
            area: int = hand.area(hand.done(number, lambda: page.keyboard.press("Enter"))[-1])
            return area

        assert drawn(2) == 40 * 40
        page.keyboard.press("Control+z")
        shows(page, NAME, 1)
        page.keyboard.down("Alt")
        page.keyboard.up("Alt")
        corners = [(64, 20), (100, 20), (100, 60), (64, 60)]
        assert drawn(2) == 36 * 40, "what is farther than 8 px of the screen stays where it is"


@pytest.fixture
def proposed(folder: Path) -> Project:
    """Squares proposed with scores of 0.9, 0.6 and 0.3 on the first image, of 0.55 on the second."""
    project = Project(folder)
    for step, (left, top, side) in enumerate([(20, 20, 40), (80, 20, 30), (80, 80, 30)]):
        project.act(0, step, square(left, top, side))
    found, nothing = project.targets(0), project.targets(1)
    for step in (3, 4, 5):
        project.step(0, step, "undo")
    project.propose(0, replace(found, scores=torch.tensor([0.9, 0.6, 0.3])))
    project.propose(1, replace(found[:1], scores=torch.tensor([0.55])))
    assert not len(nothing)
    return project


def test_proposals_are_judged_one_by_one_and_in_order_of_doubt(context: Any, proposed: Project) -> None:
    with served(proposed) as (address, _):
        page = opened(context, address, NAME)
        hand = Hand(page, proposed)
        slide(page, "Score at least", 0.2)
        page.get_by_role("button", name="Accept 3").wait_for()
        page.get_by_role("button", name="Find missed").click()
        for offered in ("Reject selected", "Accept selected"):
            page.get_by_role("button", name=offered).wait_for()
        assert not page.get_by_role("button", name="Merge selected").count(), "they are no objects yet"
        slide(page, "Score at least", 0.8)
        page.get_by_role("button", name="Accept 1").wait_for()
        slide(page, "Score at least", 0.2)
        page.get_by_role("button", name="0.90").click()
        assert hand.area(hand.done(1, lambda: page.keyboard.press("a"))[0]) == 1600
        page.get_by_role("button", name="0.30").click()
        hand.done(1, lambda: page.keyboard.press("r"))
        assert [one.score for one in proposed.history(0).proposals.values()] == [pytest.approx(0.6)]
        page.get_by_role("button", name="Find missed").click()
        page.get_by_text("1 proposal where nothing is annotated").wait_for()
        page.get_by_role("button", name="Accept 1").click()
        shows(page, NAME, 2)
        hand.page.keyboard.press("p")
        for corner in [(22, 22), (58, 22), (58, 58), (22, 58)]:
            hand.click(*corner)
        hand.done(3, lambda: page.keyboard.press("Enter"))
        page.get_by_role("button", name="Find doubled").click()
        page.get_by_text("on another one: delete or merge").wait_for()
        page.get_by_label("Order of images").select_option("doubt")
        page.get_by_title("right.png").first.click()
        shows(page, "right.png", 0)
        page.get_by_role("button", name="Next in doubt").click()
        page.get_by_text("No other image has proposals.").wait_for()


def test_measures_are_sorted_shown_and_exported(context: Any, proposed: Project) -> None:
    proposed.act(0, proposed.history(0).revision, square(20, 20, 40))
    proposed.act(0, proposed.history(0).revision, square(100, 100, 20))
    with served(proposed) as (address, _):
        page = opened(context, address, NAME, 2)
        page.get_by_role("tab", name="Measure").click()
        images = page.locator("section", has=page.get_by_role("heading", name="Images"))
        images.get_by_role("row", name=NAME).wait_for()
        cells = images.get_by_role("row", name=NAME).get_by_role("cell").all_inner_texts()
        assert cells[:2] == ["1", NAME] and cells[2:5] == ["1", "1", "2"], "matched, missed, invented"
        table = page.locator("section", has=page.get_by_role("heading", name="Objects"))
        areas = []
        for _ in range(2):
            table.get_by_role("button", name="Area").first.click()
            areas.append(table.locator("tbody tr").first.inner_text())
        assert areas[0] != areas[1] and "1,600" in areas[0]
        assert page.get_by_role("img", name="Areas").locator("rect").count() == 24
        for label in ("Table (CSV)", "COCO", "YOLO", "GeoJSON", "Label images (TIFF)"):
            with page.expect_download() as download:
                page.get_by_role("link", name=label).click()
            start = b"image,id,class" if "CSV" in label else b"PK"
            assert Path(download.value.path()).read_bytes().startswith(start)
        images.get_by_role("row", name=NAME).click()
        shows(page, NAME, 2)
