"""``eachmask segment`` without a trained model: scribbles on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eachmask.cli import main


def disk(path: Path) -> None:
    ys, xs = np.mgrid[:60, :80] + 0.5
    inside = (ys - 30) ** 2 + (xs - 35) ** 2 <= 14**2
    noise = np.random.default_rng(0).integers(0, 16, (60, 80, 3))
    image = np.where(inside[..., None], [190, 80, 70], [60, 90, 150]) + noise
    Image.fromarray(image.astype(np.uint8)).save(path)


def test_a_scribble_and_a_scribble_beside_it(tmp_path: Path):
    disk(tmp_path / "disk.png")
    out = tmp_path / "out"
    words = ["segment", str(tmp_path / "disk.png"), "--model", "graph_cut", "--out", str(out), "--device", "cpu"]
    assert main([*words, "--scribble", "28,25 42,36", "--not-scribble", "5,5 75,5 75,55"]) == 0
    (found,) = json.loads((out / "predictions.json").read_text())["annotations"]
    x, y, width, height = found["bbox"]
    assert abs(x - 21) <= 2 and abs(y - 16) <= 2 and abs(width - 28) <= 3 and abs(height - 28) <= 3


def test_a_scribble_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    disk(tmp_path / "disk.png")
    assert main(["segment", str(tmp_path / "disk.png"), "--model", "graph_cut", "--scribble", "28;25 3"]) == 2
    assert "--scribble wants 2 numbers" in capsys.readouterr().err.replace("\n", " ")
