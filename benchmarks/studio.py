"""The studio in a browser: time from a click to its drawn mask, to the first thumbnail of 5,000 images, and memory.

    python benchmarks/studio.py
    python benchmarks/studio.py --clicks 20 --images 1000

The image is scikit-image's coins, whose copies make the folder; clicks are where the pointer did not rest before. JSON:
click_ms, click_p95_ms (from the press of the button to the frame that shows the mask), ready_ms (from the command to
its link), first_thumbnail_ms (from opening the link), server_mb (largest so far), page_mb (JavaScript's memory). Needs
Playwright and chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import skimage
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
STAGE, MEASURED = "[data-testid=stage]", "performance.getEntriesByName('click to mask')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--clicks", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        source = folder / "00000.png"
        source.write_bytes((Path(skimage.__file__).parent / "data" / "coins.png").read_bytes())
        for i in range(1, arguments.images):
            os.link(source, folder / f"{i:05}.png")
        print(json.dumps(measured(folder, arguments.clicks)))


def measured(folder: Path, clicks: int) -> dict[str, float]:
    """All numbers."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "eachmask", "studio", str(folder), "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        link = re.search(r"http://127\S+token=[\w-]+", server.stdout.readline())
        assert link is not None, "no link was printed"
        ready = 1000 * (time.perf_counter() - begin)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 720}, bypass_csp=True)
            numbers = in_browser(page, link.group(), clicks)
            browser.close()
        memory = psutil.Process(server.pid).memory_info()
        numbers |= {"ready_ms": ready, "server_mb": getattr(memory, "peak_wset", memory.rss) / 2**20}
        return {name: round(float(value), 1) for name, value in numbers.items()}
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def in_browser(page: Any, link: str, clicks: int) -> dict[str, float]:
    """What the page measures."""
    begin = time.perf_counter()
    for _ in range(100):  # the link is printed before the server listens
        try:
            page.goto(link)
            break
        except Exception:
            time.sleep(0.05)
    page.wait_for_function("[...document.querySelectorAll('.frame img')].some((image) => image.naturalWidth)")
    first = 1000 * (time.perf_counter() - begin)
    page.keyboard.press("c")
    page.get_by_text("Preparing clicks").wait_for(state="hidden", timeout=120_000)
    box = page.locator(STAGE).bounding_box()
    scale = min((box["width"] - 48) / 384, (box["height"] - 48) / 303)
    for x, y in np.random.default_rng(0).uniform((-170, -130), (170, 130), (clicks, 2)):
        before = page.evaluate(f"{MEASURED}.length")
        page.mouse.click(box["x"] + box["width"] / 2 + x * scale, box["y"] + box["height"] / 2 + y * scale)
        answered = f"{MEASURED}.length > {before} || document.querySelector('.notice.bad')"  # or nothing was found
        page.wait_for_function(answered, timeout=60_000)
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
    spent = page.evaluate(f"{MEASURED}.map((entry) => entry.duration)")
    median, high = np.percentile(spent, [50, 95])
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    return {"click_ms": median, "click_p95_ms": high, "first_thumbnail_ms": first, "page_mb": heap}


if __name__ == "__main__":
    main()
