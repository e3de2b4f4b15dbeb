"""Ways through the page on the real server: proposals, corrections, two tabs, a read-only folder, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import mark, opened, press, run, served, shows  # noqa: E402

from eachmask.studio.project import Project  # noqa: E402

pytestmark = pytest.mark.xdist_group("browser")


def test_a_click_corrects_the_selected_object(context: Any, folder: Path) -> None:
    with served(Project(folder)) as (address, studio):
        page = opened(context, address, "left.png")
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
        page = opened(context, address, "left.png")
        mark(page)
        shows(page, "left.png", 1)
        assert page.get_by_role("button", name="Save").is_disabled()
    assert sorted(path.name for path in folder.iterdir()) == ["left.png", "right.png"]
    with served(Project(folder, tmp_path / "labels")) as (address, _):
        page = opened(context, address, "left.png", 1)
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved 1 image to").wait_for()
    assert list((tmp_path / "labels").rglob("*.json"))


def test_annotations_that_somebody_else_changed_are_overwritten_only_when_told_to(context: Any, folder: Path) -> None:
    with served(Project(folder)) as (address, _):
        page = opened(context, address, "left.png")
        save = page.get_by_role("button", name="Save")
        mark(page)
        shows(page, "left.png", 1)
        save.click()
        page.get_by_text("Saved 1 image to").wait_for()
        (file,) = (folder / "annotations").glob("instances_*.json")
        file.write_text(theirs := file.read_text().replace('"object"', '"thing"'))
        mark(page)
        shows(page, "left.png", 2)
        save.click()
        page.get_by_text("Changed on disk by something else").wait_for()
        assert file.read_text() == theirs
        page.get_by_role("button", name="Overwrite").click()
        page.get_by_text("Saved 1 image to").wait_for()
        assert file.read_text() != theirs and '"object"' in file.read_text()


def test_proposals_are_accepted_and_undone(context: Any, folder: Path) -> None:
    with served(Project(folder)) as (address, studio):
        page = opened(context, address, "left.png")
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
        page = opened(context, address, "left.png")
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
