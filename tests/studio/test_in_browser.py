"""The page on the real server: a click marks, what was done outlives kill -9, a torn image stops no other."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from skimage import data

pytest.importorskip("uvicorn", reason="no uvicorn: pip install eachmask[studio]")
pytest.importorskip("eachmask.studio.app", reason="the studio's server is not there")
pytestmark = pytest.mark.xdist_group("browser")


def await_port(port: int) -> None:
    """The link is printed before the server listens."""
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < until, "nobody listens"
            time.sleep(0.05)


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The server on a port of its own choice, and the link that opens it."""
    command = [sys.executable, "-m", "eachmask", "studio", str(folder), "--no-browser", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if link := re.search(r"http://127\S+token=[\w-]+", line):
            await_port(urlsplit(link.group()).port or 0)
            return server, link.group()
    raise AssertionError(f"no link was printed; exit status {server.wait()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(data.coins()).save(tmp_path / "coins.png")
    whole = (tmp_path / "coins.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:900])
    return tmp_path


def objects(page: Any, number: int) -> None:
    page.get_by_label(f"coins.png, {number} object").wait_for()


def test_what_was_marked_outlives_a_kill(context: Any, folder: Path) -> None:
    page = context.new_page()
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
    server, link = start(folder)
    try:
        page.goto(link)
        objects(page, 0)
        page.keyboard.press("c")
        box = page.get_by_test_id("stage").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
        page.get_by_role("button", name="Keep").click()
        objects(page, 1)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server, link = start(folder)
        page.goto(link)
        objects(page, 1)
        page.get_by_text("torn.png").first.click()
        page.get_by_role("alert").get_by_text("torn.png").wait_for()
        page.get_by_text("coins.png").first.click()
        objects(page, 1)
        page.keyboard.press("Control+z")
        objects(page, 0)
        assert hosts <= {"127.0.0.1", ""}
    finally:
        server.kill()
