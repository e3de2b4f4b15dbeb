"""The studio's server: time from a click to its mask, to the first thumbnail of 5,000 images, and memory.

    python benchmarks/studio.py
    python benchmarks/studio.py --clicks 20 --images 1000

The image is scikit-image's coins, whose copies make the folder. JSON: click_ms, click_p95_ms, first_thumbnail_ms (from
the start of reading the folder), server_mb (largest so far).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage
from fastapi.testclient import TestClient

from eachmask.accel.spinning import sleep_soon

KEY, BASE = "of this benchmark alone", "http://127.0.0.1"


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
    """All four numbers."""
    sleep_soon()  # as the command does, before torch is there
    from eachmask.studio.app import Studio, create_app
    from eachmask.studio.clicks import Clicks
    from eachmask.studio.project import Project

    begin = time.perf_counter()
    project = Project(folder)
    studio = Studio(project, key=KEY, clicks=Clicks(cache=folder.parent / "embeddings"))
    headers = {"authorization": f"Bearer {KEY}", "origin": BASE}
    client = TestClient(create_app(studio), base_url=BASE, headers=headers)
    client.get("/api/images").raise_for_status()
    client.get("/api/images/0/thumbnail").raise_for_status()
    first = time.perf_counter() - begin
    client.post("/api/images/0/look", json={}).raise_for_status()
    places = np.random.default_rng(0).uniform((20, 20), (360, 280), (clicks, 2)).tolist()
    spent = []
    for place in places:
        start = time.perf_counter()
        client.post("/api/images/0/click", json={"points": [place], "signs": [True]})
        spent.append(1000 * (time.perf_counter() - start))
    project.journal.close()
    median, high = np.percentile(spent, [50, 95])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers = {"click_ms": median, "click_p95_ms": high, "first_thumbnail_ms": 1000 * first, "server_mb": memory}
    return {name: round(float(value), 1) for name, value in numbers.items()}


if __name__ == "__main__":
    main()
