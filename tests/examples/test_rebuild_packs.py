"""``examples/rebuild_packs.py`` on a small archive in the layout of the source."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from eachmask.data import read
from eachmask.structures import SemanticMap

SCRIPT = Path(__file__).parents[2] / "examples" / "rebuild_packs.py"


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_archive_becomes_a_data_set(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:12] = 255
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for number in range(30):
            files = {f"images/{number}.png": png(np.full((20, 30, 3), 9, np.uint8)), "masks/m.png": png(mask)}
            for name, content in (files | {"../../../../evil.png": b"x"}).items():
                info = tarfile.TarInfo(f"repository/stage1_train/{number}/{name}")
                info.size = len(content)
                tar.addfile(info, BytesIO(content))
    out = tmp_path / "pack"
    command = [sys.executable, str(SCRIPT), "dsb2018", "--out", str(out), "--archive", str(tmp_path / "a.tar.gz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "30 images" in done.stdout, done.stderr
    data = read(out)
    assert set(data.splits) == {"train", "val", "test"} and sum(len(split) for split in data.splits.values()) == 30
    assert data.splits["train"].targets(0).masks.area().tolist() == [48]
    assert not list(tmp_path.rglob("evil.png"))
    assert subprocess.run(command, capture_output=True).returncode != 0, "nothing is overwritten"


def test_every_second_frame_of_camvid_is_taken(tmp_path: Path) -> None:
    labels = np.tile(np.arange(12, dtype=np.uint8), (4, 2))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for split in ("train", "val", "test"):
            for number in range(4):
                for folder, pixels in ((split, np.full((4, 24, 3), 9, np.uint8)), (f"{split}annot", labels)):
                    content = png(pixels)
                    info = tarfile.TarInfo(f"repository/CamVid/{folder}/{number}.png")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
    out = tmp_path / "pack"
    command = [sys.executable, str(SCRIPT), "camvid-small", "--out", str(out), "--archive", str(tmp_path / "a.tar.gz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "6 images" in done.stdout, done.stderr
    data = read(out, target=SemanticMap)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 2, "test": 2}
    found = data.splits["val"].targets(0).labels
    assert found[0, :12].tolist() == [*range(11), 255] and data.categories[10].name == "bicyclist"
