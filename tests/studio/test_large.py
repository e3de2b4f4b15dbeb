"""Folders of thousands of images, and an image of a hundred million pixels, in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from studio.live import opened, press, served, shows  # noqa: E402

from eachmask.studio.project import Project  # noqa: E402

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]
DRAWN = "[...document.querySelectorAll('.frame img')].filter((image) => image.naturalWidth).length"


def test_five_thousand_images_are_scrolled_through(context: Any, folder: Path) -> None:
    for number in range(5000):
        os.link(folder / "left.png", folder / f"z{number:04}.png")
    with served(Project(folder)) as (address, _):
        page = opened(context, address, "left.png")
        page.wait_for_function(f"() => {DRAWN} > 2")
        assert page.locator(".thumbnail").count() < 40, "only those that are seen exist"
        page.locator(".scroll").evaluate("list => { list.scrollTop = list.scrollHeight; }")
        page.get_by_title("z4999.png").click()
        shows(page, "z4999.png", 0)
        page.get_by_text("5002 of 5,002").wait_for()
        page.wait_for_function(f"() => {DRAWN} > 2")
        page.get_by_label("Order of images").select_option("objects")
        page.get_by_title("left.png").wait_for()


def test_a_hundred_million_pixels_are_seen_and_marked(context: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.full((10_000, 10_000), 40, np.uint8)
    pixels[8000:9000, 8000:9000] = 220
    Image.fromarray(pixels).save(folder / "large.png", compress_level=1)
    del pixels
    with served(Project(folder)) as (address, studio):
        page = opened(context, address, "large.png")
        page.get_by_text("10000 × 10000").wait_for()
        stage = page.get_by_test_id("stage").bounding_box()
        scale = (stage["height"] - 48) / 10_000
        place = (0.5 + 3500 * scale / stage["width"], 0.5 + 3500 * scale / stage["height"])
        page.wait_for_function(f"() => ({PIXEL})({place[0]}, {place[1]}) > 180")
        page.keyboard.press("p")
        for x, y in [(8000, 8000), (9000, 8000), (9000, 9000), (8000, 9000)]:
            shares = (0.5 + (x - 5000) * scale / stage["width"], 0.5 + (y - 5000) * scale / stage["height"])
            press(page, *shares)
        page.keyboard.press("Enter")
        shows(page, "large.png", 1)
        (box,) = studio.project.targets(0).boxes.tolist()
        assert box == pytest.approx([8000, 8000, 9000, 9000], abs=20)
        page.keyboard.press("h")
        page.mouse.move(stage["x"] + stage["width"] * place[0], stage["y"] + stage["height"] * place[1])
        with page.expect_response("**/tile/0/**"):
            for _ in range(12):
                page.mouse.wheel(0, -240)
        page.wait_for_function(f"() => ({PIXEL})({place[0]}, {place[1]}) > 180")


PIXEL = """(right, down) => {
    const stage = document.querySelector('[data-testid=stage]');
    return stage.getContext('2d').getImageData(stage.width * right, stage.height * down, 1, 1).data[0];
}"""
"""The red of a place of the stage."""
