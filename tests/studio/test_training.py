"""A training in the browser, stopped and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import LONG, opened, served  # noqa: E402
from studio.test_tools import NAME, square  # noqa: E402

from eachmask.studio.project import Project  # noqa: E402

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

EPOCHS = 20
"""Of one step each, of which every second one is a point of the curve."""


def test_a_training_is_stopped_and_goes_on_where_it_was(context: Any, folder: Path) -> None:
    project = Project(folder)
    for index in range(2):
        project.act(index, 0, square(20, 20, 40))
    with served(project) as (address, studio):
        page = opened(context, address, NAME, 1)
        page.get_by_role("tab", name="Models").click()
        page.get_by_label("Epochs").fill(str(EPOCHS))
        card = page.locator("form", has=page.get_by_role("heading", name="Train on"))
        card.get_by_role("button", name="Start").click()
        row = page.get_by_role("article", name="Training")
        row.get_by_role("img", name="Loss over steps").wait_for(timeout=LONG)
        row.get_by_role("button", name="Stop").click()
        row.get_by_text("stopped", exact=True).wait_for(timeout=LONG)
        (job,) = studio.jobs.jobs.values()
        assert job.watcher is not None
        job.watcher.join(LONG / 1000)
        reached, before = job.share, job.out().curve
        row.get_by_role("button", name="Resume").click()
        row.get_by_text("running", exact=True).wait_for(timeout=LONG)
        page.wait_for_function(f"() => document.querySelector('.job progress').value > {reached}", timeout=LONG)
        row.get_by_role("button", name="Stop").click()
        row.get_by_text("stopped", exact=True).wait_for(timeout=LONG)
        job.watcher.join(LONG / 1000)
        curve = job.out().curve
    steps = [step for step, _ in curve]
    assert curve[: len(before)] == before and len(curve) > len(before) and steps == sorted(set(steps))
