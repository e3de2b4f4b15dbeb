from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from eachmask.cli import main
from eachmask.data.images.pixel_size import pixel_size


def frames(folder: Path) -> Path:
    """Two squares that wander, as a folder of label maps."""
    for split in ("images", "labels"):
        (folder / split).mkdir(parents=True)
    for t in range(3):
        labels = np.zeros((40, 60), np.uint8)
        labels[5 + 2 * t : 15 + 2 * t, 5:15], labels[20:30, 40 - 15 * t : 50 - 15 * t] = 7, 3
        cv2.imwrite(str(folder / "labels" / f"t{t}.png"), labels)
        cv2.imwrite(str(folder / "images" / f"t{t}.png"), labels * 20)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "tracks.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_a_series(tmp_path, capsys):
    folder = frames(tmp_path / "movie")
    assert main(["link", str(folder)]) == 0
    rows = table(folder)
    assert [row["image"] for row in rows[::2]] == ["t0.png", "t1.png", "t2.png"]
    by_label = {label: [row["track"] for row in rows if row["label"] == label] for label in ("1", "2")}
    assert (
        by_label == {"1": ["1", "3", "4"], "2": ["2", "2", "2"]} and "4 tracks of 6 objects" in capsys.readouterr().out
    )
    assert rows[0] | {"x": "45", "y": "25", "area": "100", "unit": "px"} == rows[0]
    assert main(["link", str(folder), "--distance", "20", "--pixel-size", "0.5"]) == 0
    rows = table(folder)
    assert {row["track"] for row in rows} == {"1", "2"}
    assert rows[0] | {"x": "22.5", "y": "12.5", "area": "25", "unit": "um"} == rows[0]


@pytest.mark.parametrize("wrong", [["--iou", "2"], ["--gap", "-1"], ["--pixel-size", "0"]])
def test_nonsense_is_refused(tmp_path, wrong):
    assert main(["link", str(frames(tmp_path / "movie")), *wrong]) == 2


def test_one_image_is_no_series(tmp_path):
    folder = frames(tmp_path / "movie")
    for t in (1, 2):
        (folder / "images" / f"t{t}.png").unlink()
        (folder / "labels" / f"t{t}.png").unlink()
    assert main(["link", str(folder)]) == 1


def test_microscopes_say_how_large_a_pixel_is(tmp_path):
    pixels = np.zeros((2, 8, 8), np.uint8)
    imagej = tmp_path / "i.tif"
    tifffile.imwrite(imagej, pixels, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um", "axes": "TYX"})
    assert pixel_size(imagej) == pytest.approx(0.5)
    ome = tmp_path / "o.ome.tif"
    said = {"axes": "TYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(ome, pixels, metadata=said)
    assert pixel_size(ome) == pytest.approx(0.25)
    plain = tmp_path / "p.tif"
    tifffile.imwrite(plain, pixels[0])
    cv2.imwrite(str(tmp_path / "x.png"), pixels[0])
    assert pixel_size(plain) is None and pixel_size(tmp_path / "x.png") is None and pixel_size(tmp_path / "no") is None
