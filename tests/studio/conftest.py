"""A browser for the studio's page: Debian's chromium, driven by Playwright; absent either, the tests skip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

WAIT = 180_000
"""ms that what is awaited may take on a busy machine, encoding an image for clicks for example."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Not kept longer: while Playwright is open its event loop runs in this thread, and others cannot run theirs."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


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
    context.set_default_timeout(WAIT)
    yield context
    context.close()
