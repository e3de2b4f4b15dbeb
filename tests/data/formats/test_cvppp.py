from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from eachmask import UserError
from eachmask.data import read
from eachmask.data.convert import convert
from eachmask.data.reading import read_any
from eachmask.data.rosettes import rosette, write_rosettes

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "rosettes.py"


@pytest.fixture
def plants(tmp_path: Path) -> Path:
    write_rosettes(tmp_path / "leaves", {"train": 2, "val": 1}, seed=5, size=(48, 64))
    return tmp_path / "leaves"


def test_made_rosettes_are_read_as_they_were_made(plants):
    data, _ = read_any(plants)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1}
    assert [category.name for category in data.categories] == ["leaf"] and not data.problems
    for i, sample in enumerate([data.splits["train"][0], data.splits["train"][1], data.splits["val"][0]]):
        made = rosette(5 + i, (48, 64))
        assert np.array_equal(sample.image, made.image)
        assert np.array_equal(sample.targets.masks.to_label_map() > 0, made.targets.masks.to_label_map() > 0)
        assert sorted(sample.targets.masks.area()) == sorted(made.targets.masks.area())
    assert data.splits["train"].names[0] == "plant001.png"


def test_folders_of_the_challenge_are_splits_and_numbers_may_have_gaps(tmp_path):
    folder = tmp_path / "A1"
    folder.mkdir()
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 2:8], labels[10:18, 12:20] = 3, 7
    cv2.imwrite(str(folder / "plant008_rgb.png"), np.full((20, 30, 3), 90, np.uint8))
    cv2.imwrite(str(folder / "plant008_label.png"), labels)
    data = read(tmp_path)
    assert list(data.splits) == ["A1"] and data.splits["A1"].targets(0).masks.area().tolist() == [36, 64]


def test_counts_and_foregrounds_that_contradict_the_map_are_told(plants):
    table = plants / "train" / "train.csv"
    first, rest = table.read_text().split("\n", 1)
    table.write_text(f"{first.split(',')[0]}, 99\n{rest}")
    cv2.imwrite(str(plants / "val" / "plant001_fg.png"), np.zeros((48, 64), np.uint8))
    problems = read(plants).problems
    assert [(problem.kind, problem.severity) for problem in problems] == [
        ("count", "warning"),
        ("label map", "warning"),
    ]
    assert "99" in problems[0].what and "plant001_fg" in problems[1].file


def test_images_without_a_map_and_maps_without_an_image_are_told(plants):
    (plants / "train" / "plant001_label.png").unlink()
    (plants / "val" / "plant001_rgb.png").unlink()
    data = read(plants)
    assert sum(map(len, data.splits.values())) == 1
    assert sorted(problem.kind for problem in data.problems) == ["image", "missing"]
    for path in plants.rglob("*_label.png"):
        path.unlink()
    with pytest.raises(UserError, match="plant_label.png"):
        read(plants, "cvppp")


def test_it_is_written_and_read_back(plants, tmp_path):
    assert convert(plants, tmp_path / "coco", "coco").loss.exact
    report = convert(tmp_path / "coco", tmp_path / "again", "cvppp")
    assert report.loss.exact, report.loss
    assert (tmp_path / "again" / "train" / "train.csv").read_text() == (plants / "train" / "train.csv").read_text()


def test_the_example_writes_a_set(tmp_path):
    made = [sys.executable, str(EXAMPLE), str(tmp_path / "set"), "--train", "1", "--val", "1", "--test", "0"]
    done = subprocess.run([*made, "--size", "32"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "set").splits["train"]) == 1
    again = subprocess.run(made, capture_output=True, text=True)
    assert again.returncode == 2 and "exists" in again.stderr
