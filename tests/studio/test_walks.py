"""Ways through the page on the real server: proposals, corrections, two tabs, a read-only folder, training."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data

uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from eachmask.studio.app import Studio, create_app  # noqa: E402
from eachmask.studio.jobs import curve_of  # noqa: E402
from eachmask.studio.project import Project  # noqa: E402

pytestmark = pytest.mark.xdist_group("browser")
LONG = 120_000
"""ms that a child process may take on a busy machine."""


@contextmanager
def served(project: Project) -> Iterator[tuple[str, Studio]]:
    """A server in a thread, and the link that opens it."""
    studio = Studio(project, token="T")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(studio), log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        listening.listen()
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", studio
        finally:
            server.should_exit = True
            thread.join(20)
            project.journal.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    coins = Image.fromarray(data.coins())
    for name, left in [("left.png", 0), ("right.png", 128)]:
        coins.crop((left, 16, left + 128, 158)).save(folder / name)
    return folder


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(20_000)
    yield context
    context.close()


def shows(page: Any, name: str, number: int) -> None:
    page.get_by_label(f"{name}, {number} object").wait_for()


def press(page: Any, right: float, down: float, **how: Any) -> None:
    """Click on a place of the stage, in shares of its width and height."""
    box = page.get_by_test_id("stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] * right, box["y"] + box["height"] * down, **how)


def mark(page: Any) -> None:
    """An object by a click in the middle."""
    page.keyboard.press("c")
    press(page, 0.5, 0.5)
    page.get_by_role("button", name="Keep").click()


def test_a_click_corrects_the_selected_object(context: Any, folder: Path) -> None:
    with served(Project(folder)) as (address, studio):
        page = context.new_page()
        page.goto(f"{address}?token=T")
        shows(page, "left.png", 0)
        mark(page)
        shows(page, "left.png", 1)
        (before,) = studio.project.history(0).objects.values()
        page.keyboard.down("Shift")
        with page.expect_request("**/click") as asked:
            press(page, 0.5, 0.55)
        page.keyboard.up("Shift")
        assert asked.value.post_data_json["id"] == before.id
        page.get_by_text("Correcting the selected object").wait_for()
        with page.expect_response("**/actions"):
            page.get_by_role("button", name="Keep").click()
        (after,) = studio.project.history(0).objects.values()
        assert after.id == before.id and studio.project.history(0).revision == 2
        shows(page, "left.png", 1)


def test_two_tabs_show_the_same(context: Any, folder: Path) -> None:
    with served(Project(folder)) as (address, _):
        first, second = context.new_page(), context.new_page()
        first.goto(f"{address}?token=T")
        shows(first, "left.png", 0)
        second.goto(address)
        shows(second, "left.png", 0)
        mark(first)
        for tab, number in [(second, 1), (first, 1)]:
            shows(tab, "left.png", number)
        second.keyboard.press("Control+z")
        for tab in (second, first):
            shows(tab, "left.png", 0)
        first.keyboard.press("Control+Shift+Z")
        for tab in (first, second):
            shows(tab, "left.png", 1)


def test_a_read_only_folder_is_marked_but_not_written(
    context: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("eachmask.studio.project.os.access", lambda *_: False)
    with served(Project(folder)) as (address, _):
        page = context.new_page()
        page.goto(f"{address}?token=T")
        shows(page, "left.png", 0)
        mark(page)
        shows(page, "left.png", 1)
        assert page.get_by_role("button", name="Save").is_disabled()
    assert sorted(path.name for path in folder.iterdir()) == ["left.png", "right.png"]
    with served(Project(folder, tmp_path / "labels")) as (address, _):
        page = context.new_page()
        page.goto(f"{address}?token=T")
        shows(page, "left.png", 1)
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved 1 file to").wait_for()
    assert list((tmp_path / "labels").rglob("*.json"))


def run(page: Any, card: str, kind: str) -> Any:
    """Start the job of a card; its row, once it is done."""
    page.locator("form", has=page.get_by_role("heading", name=card)).get_by_role("button", name="Start").click()
    row = page.get_by_role("article", name=kind)
    row.get_by_text("done", exact=True).or_(row.get_by_text("failed", exact=True)).wait_for(timeout=LONG)
    assert "failed" not in row.inner_text(), row.inner_text()
    return row


def test_proposals_are_accepted_and_undone(context: Any, folder: Path) -> None:
    with served(Project(folder)) as (address, studio):
        page = context.new_page()
        page.goto(f"{address}?token=T")
        shows(page, "left.png", 0)
        page.get_by_role("tab", name="Models").click()
        page.get_by_label("Model").first.select_option("nuclei")
        row = run(page, "Let a model propose", "Proposals")
        found = [len(studio.project.history(index).proposals) for index in range(2)]
        assert sum(found) > 0 and f"{sum(found)} proposal" in row.inner_text()
        page.get_by_role("tab", name="Annotate").click()
        shown = [one for one in studio.project.history(0).proposals.values() if (one.score or 0) >= 0.5]
        page.get_by_role("button", name=f"Accept {len(shown)}").click()
        shows(page, "left.png", len(shown))
        assert len(studio.project.history(0).proposals) == found[0] - len(shown)
        page.keyboard.press("Control+z")
        shows(page, "left.png", 0)


@pytest.mark.slow
def test_a_model_is_trained_and_compared(context: Any, folder: Path) -> None:
    project = Project(folder)
    with served(project) as (address, studio):
        page = context.new_page()
        page.goto(f"{address}?token=T")
        shows(page, "left.png", 0)
        for name in ("left.png", "right.png"):
            page.get_by_title(name).click()
            shows(page, name, 0)
            mark(page)
            shows(page, name, 1)
        page.get_by_role("tab", name="Models").click()
        page.get_by_label("Epochs").fill("1")
        trained = run(page, "Train on your annotations", "Training")
        name = next(job.result["model"] for job in studio.jobs.jobs.values() if job.result)
        assert name in trained.inner_text()
        page.locator("option", has_text=name).first.wait_for(state="attached")
        page.get_by_label("Model").last.select_option("nuclei")
        assert "AP of masks" in run(page, "Compare with a model", "Comparison").inner_text()


def test_the_curve_is_the_sum_of_the_losses(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,class,mask,ap,ap50\n5,1.0,0.5,0.9,0.9\n10,0.5,0.25,0.9,0.9\n")
    assert curve_of(tmp_path / "log.csv") == [(5, 1.5), (10, 0.75)]
    assert curve_of(tmp_path / "none.csv") == []
