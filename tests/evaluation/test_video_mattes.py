"""A video's mattes are measured by their flicker too, where somebody says that it is a video."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from eachmask import cli


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Three frames whose foreground stays, and mattes of it that come and go in half of the image."""
    for place in ("clip/images", "clip/alpha", "found"):
        (tmp_path / place).mkdir(parents=True)
    for number in range(3):
        name, half = f"{number:05d}.png", np.full((4, 8), 255, np.uint8)
        half[:, :4] = 255 if number % 2 else 0
        cv2.imwrite(str(tmp_path / "clip/images" / name), np.zeros((4, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / "clip/alpha" / name), np.full((4, 8), 255, np.uint8))
        cv2.imwrite(str(tmp_path / "found" / name), half)
    return tmp_path


def test_dtssd_is_measured_of_a_video_alone(clip: Path) -> None:
    out = clip / "out"
    call = ["evaluate", "--predictions", str(clip / "found"), "--task", "matting", "--data", str(clip / "clip")]
    call += ["--out", str(out), "--resamples", "0", "--gallery", "0"]
    assert cli.main(call) == 0
    assert "dtssd" not in json.loads((out / "evaluation.json").read_text())["measured"]["matting"]
    assert cli.main([*call, "--video"]) == 0
    measured = json.loads((out / "evaluation.json").read_text())["measured"]["matting"]
    assert measured["dtssd"] == pytest.approx(0.5**0.5)  # half of the pixels change by 1 and should not
