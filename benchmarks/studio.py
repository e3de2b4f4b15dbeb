"""The studio in a browser: time from a click to its drawn mask, to the first thumbnail of 5,000 images, how smoothly
2,000 objects move, and memory.

    python benchmarks/studio.py
    python benchmarks/studio.py --clicks 20 --images 1000

The image is scikit-image's coins, whose copies make the folder; clicks are where the pointer did not rest before. The
objects lie on an image of their own and are panned and zoomed, without a GPU. JSON: click_ms, click_p95_ms (from the
press of the button to the frame that shows the mask), answer_ms (to the answer's last byte, median), ready_ms (from the
command to its link), first_thumbnail_ms (from opening the link), server_mb (largest so far), page_mb (JavaScript's
memory), fps_2000 (frames per second; a window has 60 at most), frame_p95_ms (from one to the next) and frame_cpu_ms (of
all processes of the browser, for each of these frames: below 16 it keeps up on a core that nobody else uses). Needs
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
from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
STAGE, MEASURED = "[data-testid=stage]", "performance.getEntriesByName('click to mask')"
REQUESTS = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/click'))"
ASK_EACH_MS = 250
"""Asked in every frame, as is the default, the browser would draw frames only to be asked, beside the server."""
OBJECTS, FRAMES = 2000, 240
MOVING = """(frames) => new Promise((done) => {
  const stage = document.querySelector("[data-testid=stage]");
  const { left, top, width, height } = stage.getBoundingClientRect();
  const times = [];
  const step = (now) => {
    times.push(now);
    if (times.length > frames) return done(times.slice(1).map((time, i) => time - times[i]));
    const phase = Math.floor(times.length / 60) % 4;  // right, into the image, left, out of it
    const deltaY = [20, -12, -20, 12][phase];
    stage.dispatchEvent(new WheelEvent("wheel", {
      deltaY, shiftKey: phase % 2 === 0, clientX: left + width / 2, clientY: top + height / 2, cancelable: true,
    }));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
"""Pans and zooms by the wheel, once a frame; the times between frames, ms."""


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
        write_objects(folder)
        print(json.dumps(measured(folder, arguments.clicks)))


def measured(folder: Path, clicks: int) -> dict[str, float]:
    """All numbers."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "eachmask", "studio", str(folder), "--port", "0", "--no-browser"]
    command += ["--labels", str(folder / "coco.json")]
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
            numbers |= moved(page, len(list(folder.glob("*.png"))) - 1)
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
    page.evaluate("performance.setResourceTimingBufferSize(10_000)")
    answers = []
    for x, y in np.random.default_rng(0).uniform((-170, -130), (170, 130), (clicks, 2)):
        before = page.evaluate(f"{MEASURED}.length")
        page.mouse.click(box["x"] + box["width"] / 2 + x * scale, box["y"] + box["height"] / 2 + y * scale)
        answered = f"{MEASURED}.length > {before} || document.querySelector('.notice.bad')"  # or nothing was found
        page.wait_for_function(answered, timeout=60_000, polling=ASK_EACH_MS)
        if page.evaluate(f"{MEASURED}.length") > before:
            answers.append(page.evaluate(f"{REQUESTS}.at(-1).responseEnd - {MEASURED}.at(-1).startTime"))
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
    spent = page.evaluate(f"{MEASURED}.map((entry) => entry.duration)")
    median, high = np.percentile(spent, [50, 95])
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    answer = float(np.median(answers))
    return {"click_ms": median, "click_p95_ms": high, "answer_ms": answer, "first_thumbnail_ms": first, "page_mb": heap}


def moved(page: Any, index: int) -> dict[str, float]:
    """How 2,000 objects move, on the image of that index."""
    page.evaluate(f"location.hash = '#{index}'")
    page.reload()
    page.get_by_label(f"{OBJECTS:,} objects").wait_for(timeout=600_000)
    page.evaluate(MOVING, 30)  # once, so that all is compiled and loaded
    page.wait_for_timeout(500)
    begin = browser_seconds()
    frames = np.array(page.evaluate(MOVING, FRAMES))
    spent = 1000 * (browser_seconds() - begin) / FRAMES
    high = float(np.percentile(frames, 95))
    return {"fps_2000": 1000 / frames.mean(), "frame_p95_ms": high, "frame_cpu_ms": spent}


def browser_seconds() -> float:
    """Of the CPU, that all processes of chromium have taken."""
    processes = psutil.Process().children(recursive=True)
    return sum(sum(one.cpu_times()[:2]) for one in processes if "chrom" in one.name())


def write_objects(folder: Path) -> None:
    """An image with 2,000 round objects of 40 vertices each, and their annotations beside it."""
    side, across = 2000, 50
    Image.fromarray(np.random.default_rng(0).integers(0, 80, (side, side, 3), np.uint8)).save(folder / "objects.png")
    circle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = np.stack([14 * np.cos(circle), 14 * np.sin(circle)], 1)
    annotations = []
    for k in range(OBJECTS):
        center = [(k % across + 0.5) * side / across, (k // across + 0.5) * side / across]
        ring = (outline + center).round(2).ravel().tolist()
        box = [center[0] - 14, center[1] - 14, 28.0, 28.0]
        one = {"id": k + 1, "image_id": 1, "category_id": 1, "segmentation": [ring]}
        annotations.append(one | {"bbox": box, "area": 615.0, "iscrowd": 0})
    images = [{"id": 1, "file_name": "objects.png", "width": side, "height": side}]
    categories = [{"id": 1, "name": "disk"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
