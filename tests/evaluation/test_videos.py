"""Label maps of clips are measured from the command line, and together as each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eachmask.cli import main
from eachmask.evaluation.tracks import clips_in, measure_tracks


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two clips of five frames; of the second the result has only a half, and swaps its numbers in the fourth frame."""
    for clip in ("one", "two"):
        (tmp_path / "targets" / clip).mkdir(parents=True)
        (tmp_path / "found" / clip / "davis").mkdir(parents=True)
        for t in range(5):
            labels = np.zeros((40, 60), np.uint8)
            labels[4:16, 4 + 3 * t : 20 + 3 * t], labels[24:36, 30:50] = 1, 2
            Image.fromarray(labels).save(tmp_path / "targets" / clip / f"{t:05d}.png")
            if clip == "two":
                labels[24:30, 30:50] = 0
                labels = np.array([0, 2, 1], np.uint8)[labels] if t == 3 else labels
            Image.fromarray(labels).save(tmp_path / "found" / clip / "davis" / f"{t:05d}.png")
    return tmp_path / "found", tmp_path / "targets"


def test_marked_objects(folders, tmp_path, capsys):
    found, targets = folders
    words = ["evaluate", "--predictions", str(found), "--task", "marked", "--data", str(targets)]
    assert main([*words, "--out", str(tmp_path / "out"), "--fail-under", "J-Mean=0.9"]) == 1
    assert "J-Mean" in capsys.readouterr().out
    said = json.loads((tmp_path / "out/evaluation.json").read_text())["marked"]
    both = (1 + 1 + np.mean([1, 1, 0]) + np.mean([0.5, 0.5, 0])) / 4  # first and last frame do not count
    assert said["J-Mean"] == pytest.approx(both, abs=1e-6)
    assert "two" in (tmp_path / "out/report.html").read_text()


def test_tracks(folders, tmp_path, capsys):
    found, targets = folders
    words = ["evaluate", "--predictions", str(found), "--task", "tracks", "--data", str(targets)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0 and "hota" in capsys.readouterr().out
    clips = clips_in(found, targets)
    one, two, both = measure_tracks(clips[:1]), measure_tracks(clips[1:]), measure_tracks(clips)
    assert one["hota"] == one["idf1"] == one["motsa"] == 1 and one["J&F-Mean"] == 1
    assert two["hota"] < both["hota"] < 1 and both["tracks"] == 4 and both["switches"] == two["switches"] > 0


def test_mistakes(folders, tmp_path, capsys):
    found, targets = folders
    words = ["evaluate", "--predictions", str(found), "--task", "tracks", "--data"]
    assert main([*words, str(tmp_path / "nowhere")]) == 2 and "no label maps" in capsys.readouterr().err
    (targets / "two" / "00004.png").unlink()
    assert main([*words, str(targets)]) == 2 and "4 label maps" in capsys.readouterr().err
    assert main(["evaluate", "clicks", "--task", "marked", "--data", str(targets)]) == 2
    assert "--predictions" in capsys.readouterr().err
