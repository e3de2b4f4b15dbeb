"""``eachmask demo``, which ``make demo`` runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_demo_without_network_or_cache(tmp_path: Path) -> None:
    environment = os.environ | {"EACHMASK_CACHE": str(tmp_path / "empty")}
    command = [sys.executable, "-m", "eachmask", "demo"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--images", str(tmp_path / "images")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "images/coins.png").is_file(), "what README's first command predicts"
    results = tmp_path / "out" / "nuclei"
    for name in ("report.html", "overlays", "predictions.json", "labels", "instances.csv"):
        assert str(results / name) in done.stdout and (results / name).exists()
    summary = json.loads((results / "summary.json").read_text())
    assert summary["failed"] == 0 and summary["done"] == 2
    per_image = dict.fromkeys(("coins.png", "hubble_deep_field.jpg"), 0)
    found = json.loads((results / "predictions.json").read_text())
    names = {image["id"]: Path(image["file_name"]).name for image in found["images"]}
    for annotation in found["annotations"]:
        per_image[names[annotation["image_id"]]] += 1
    assert 22 <= per_image["coins.png"] <= 30, "the image shows 24 coins"
    assert per_image["hubble_deep_field.jpg"] > 50, "the image shows some dozens of large galaxies"
    photographs = json.loads((tmp_path / "out" / "objects" / "predictions.json").read_text())
    kinds = {category["id"]: category["name"] for category in photographs["categories"]}
    images = {image["id"]: Path(image["file_name"]).name for image in photographs["images"]}
    seen = {(images[a["image_id"]], kinds[a["category_id"]]) for a in photographs["annotations"]}
    assert {("astronaut.png", "person"), ("chelsea.png", "animal"), ("coffee.png", "kitchen")} <= seen
    assert "mask_rcnn_r50_fpn_v2" in done.stdout and "eachmask demo --fetch" in done.stdout
