"""The guide of docs/studio.md followed in a browser: start, look, mark, let models propose, train, measure.

With ``EACHMASK_SCREENSHOTS=docs/images`` its pictures are written there (``make screenshots``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import opened, picture, press, run, served, shows  # noqa: E402

from eachmask.studio.project import Project  # noqa: E402
from eachmask.studio.sample import sample_folder  # noqa: E402

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]


def test_the_six_steps(context: Any, tmp_path: Path) -> None:
    project = Project(sample_folder(tmp_path / "photos"))
    coins = project.names.index("coins.png")
    with served(project) as (address, studio):
        page = opened(context, address, project.names[0])

        # 1 and 2: start and look
        page.get_by_label("New class").fill("coin")
        page.get_by_role("button", name="Add", exact=True).click()
        page.get_by_title("coins.png").click()
        shows(page, "coins.png", 0)

        # 3: mark
        page.keyboard.press("2")
        page.keyboard.press("c")
        page.get_by_text("Preparing clicks").wait_for(state="hidden")
        stage = page.get_by_test_id("stage").bounding_box()
        scale = min((stage["width"] - 48) / 384, (stage["height"] - 48) / 303)
        place = (
            stage["x"] + stage["width"] / 2 + (48 - 192) * scale,
            stage["y"] + stage["height"] / 2 + (200 - 151.5) * scale,
        )
        with page.expect_response("**/click"):
            page.mouse.move(*place)
        picture(page, "hover")
        page.mouse.click(*place)
        page.get_by_role("button", name="Keep").wait_for()
        page.keyboard.press("Enter")
        shows(page, "coins.png", 1)

        page.get_by_title("coffee.png").click()
        shows(page, "coffee.png", 0)
        page.keyboard.press("p")
        for right, down in [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)]:
            press(page, right, down)
        page.keyboard.press("Enter")
        shows(page, "coffee.png", 1)
        page.get_by_title("coins.png").click()
        shows(page, "coins.png", 1)

        # 4: let a model propose
        page.get_by_role("tab", name="Models").click()
        page.get_by_label("Model").first.select_option("nuclei")
        page.locator("form").first.get_by_label("Images").select_option("one")
        run(page, "Let a model propose", "Proposals")
        page.get_by_role("tab", name="Annotate").click()
        page.get_by_title("coins.png").click()
        picture(page, "proposals")
        with page.expect_response("**/actions"):
            page.get_by_role("button", name=re.compile(r"Accept \d+")).click()
        marked = len(studio.project.history(coins).objects)
        assert marked > 5
        page.keyboard.press("Escape")
        page.get_by_test_id("stage").focus()
        page.keyboard.press("v")
        page.keyboard.press("Enter")
        page.get_by_label("coffee.png").or_(page.get_by_label("hubble")).first.wait_for()
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved").wait_for()

        # 5: train, and let the new model propose
        page.get_by_role("tab", name="Models").click()
        page.get_by_label("Epochs").fill("6")
        trained = run(page, "Train on your annotations", "Training")
        assert trained.locator("img").count() and trained.get_by_role("img", name="Loss over steps").count()
        trained.scroll_into_view_if_needed()
        picture(page, "training")
        (name,) = [str(job.run) for job in studio.jobs.jobs.values() if job.order.kind == "train"]
        page.get_by_label("Model").first.select_option(name)

        # 6: measure
        page.get_by_role("tab", name="Measure").click()
        page.get_by_role("heading", name="Areas").wait_for()
        picture(page, "measures")
        with page.expect_download() as download:
            page.get_by_role("link", name="Table (CSV)").click()
        rows = Path(download.value.path()).read_text().splitlines()
        assert len(rows) == 2 + marked and rows[0].startswith("image,id,class")
