"""A video in the browser: its time line, an object followed from one frame to the others; channels of a stack."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import opened, picture, press, served, shows  # noqa: E402
from studio.test_tracks import moving_coin  # noqa: E402

from eachmask.studio.project import Project  # noqa: E402

pytestmark = pytest.mark.xdist_group("browser")


def test_an_object_marked_on_one_frame_is_followed_to_the_others(context: Any, tmp_path: Path) -> None:
    project = Project(moving_coin(tmp_path / "video", 3))
    with served(project) as (address, _):
        page = opened(context, address, "coin.gif#frame=1")
        line = page.get_by_role("group", name="Pages and frames")
        line.get_by_text("1 of 3").wait_for()
        page.keyboard.press("p")
        for angle in (0, 0.9, 1.8, 2.7, 3.6, 4.5, 5.4):
            press(page, 0.337 + 0.13 * math.cos(angle), 0.5 + 0.17 * math.sin(angle))
        page.keyboard.press("Enter")
        shows(page, "coin.gif#frame=1", 1)
        assert line.locator("rect").count() == 1
        line.get_by_role("button", name="Follow to the end").click()
        line.locator("rect").nth(2).wait_for(state="attached")
        page.keyboard.press("PageDown")
        shows(page, "coin.gif#frame=2", 1)
        page.get_by_label("Number in the video").wait_for()
        assert page.get_by_label("Number in the video").input_value() == "1", "it stays selected"
        slider = line.get_by_role("slider")
        slider.focus()
        page.keyboard.press("End")
        shows(page, "coin.gif#frame=3", 1)
        picture(page, "video")
        assert [one.track for one in project.history(2).objects.values()] == [1]


def test_channels_are_chosen_and_colored(context: Any, tmp_path: Path) -> None:
    folder = tmp_path / "dyes"
    folder.mkdir()
    values = np.full((60, 80, 4), 100, np.uint16)
    tifffile.imwrite(folder / "dyes.tif", values, photometric="minisblack", planarconfig="contig")
    with served(Project(folder)) as (address, _):
        page = opened(context, address, "dyes.tif")
        with page.expect_response(lambda answer: "shades=0%3Aff0000%3A%3A%2C2%3A" in answer.url) as answered:
            page.get_by_label("Channel 2", exact=True).uncheck()
        assert answered.value.ok
        with page.expect_response(lambda answer: "shades=0%3Aff00ff" in answer.url) as answered:
            page.get_by_label("Color of channel 1").fill("#ff00ff")
        assert answered.value.ok
