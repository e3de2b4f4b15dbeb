"""The page on the real server, in a thread of the test; and a hand that uses it."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

from eachmask.studio.app import Studio, create_app  # noqa: E402
from eachmask.studio.clicks import Clicks  # noqa: E402
from eachmask.studio.project import Project  # noqa: E402

LONG = 900_000
"""ms that a child process, or loading a model, may take on a busy machine."""
CLICKS = Clicks()
"""Loaded once for all tests of a process."""


@contextmanager
def served(project: Project, clicks: Clicks = CLICKS) -> Iterator[tuple[str, Studio]]:
    """A server in a thread, and the link that opens it."""
    studio = Studio(project, clicks=clicks, token="T")
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
            clicks._looks.submit(bool).result()  # what it looks at is done
            with clicks._answering:  # no thread may compute when the process ends
                pass
            project.journal.close()


def opened(context: Any, address: str, name: str, number: int = 0) -> Any:
    """A tab of the link, once it shows that image with so many objects."""
    page = context.new_page()
    page.goto(f"{address}?token=T")
    shows(page, name, number)
    return page


def shows(page: Any, name: str, number: int) -> None:
    page.get_by_label(f"{name}, {number} object").wait_for()


def picture(page: Any, name: str) -> None:
    """For the docs; written only where a folder for them is named (``make screenshots``)."""
    if place := os.environ.get("EACHMASK_SCREENSHOTS"):
        page.wait_for_timeout(1000)  # until all is drawn
        image = Image.open(io.BytesIO(page.screenshot()))
        image.convert("RGB").save(Path(place) / f"studio-{name}.webp", quality=80, method=6)


def press(page: Any, right: float, down: float, **how: Any) -> None:
    """Click on a place of the stage, in shares of its width and height."""
    box = page.get_by_test_id("stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] * right, box["y"] + box["height"] * down, **how)


def mark(page: Any) -> None:
    """An object by a click in the middle."""
    page.keyboard.press("c")
    press(page, 0.5, 0.5)
    page.get_by_role("button", name="Keep").click()


def run(page: Any, card: str, kind: str) -> Any:
    """Start the job of a card; its row, once it is done."""
    page.locator("form", has=page.get_by_role("heading", name=card)).get_by_role("button", name="Start").click()
    row = page.get_by_role("article", name=kind)
    row.get_by_text("done", exact=True).or_(row.get_by_text("failed", exact=True)).wait_for(timeout=LONG)
    assert "failed" not in row.inner_text(), row.inner_text()
    return row
