from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import tifffile
import torch

from eachmask import load
from eachmask.cli import main
from eachmask.data.rosettes import CATEGORIES, rosette
from eachmask.inference.diameter import typical_diameter
from eachmask.structures import Preprocess, UserError
from eachmask.training.object_size import object_diameter


def disks(radius: int, side: int = 160) -> np.ndarray:
    """Nine bright disks on a dark ground."""
    image = np.full((side, side, 3), 20, np.uint8)
    for i in range(9):
        center = (side // 6 + (i % 3) * side // 3, side // 6 + (i // 3) * side // 3)
        cv2.circle(image, center, radius, (200, 200, 200), -1)
    return image


@pytest.fixture(scope="module")
def nuclei():
    return load("nuclei", device="cpu", precision="fp32")


def test_objects_are_seen_as_large_as_those_learnt_from(nuclei):
    own = nuclei.info.object_diameter
    small = nuclei.at_diameter(8)
    assert small.info.preprocess.scale(100, 100) == pytest.approx(own / 8)
    assert small.info.tile * own / 8 == pytest.approx(nuclei.info.tile * nuclei.info.preprocess.magnification, rel=0.01)
    assert small.fingerprint != nuclei.fingerprint and nuclei.info.preprocess.magnification == 1.6
    found = small.predict(disks(4))
    assert len(found) == 9 and found.masks.area() == pytest.approx([50] * 9, rel=0.35)


@pytest.mark.parametrize("radius", [3, 8, 24])
def test_the_diameter_is_found_out(nuclei, radius):
    assert typical_diameter(nuclei, [disks(radius, side=20 * radius)]) == pytest.approx(2 * radius, rel=0.3)


def test_no_diameter_where_nothing_is_seen(nuclei):
    assert typical_diameter(nuclei, [np.full((64, 64, 3), 7, np.uint8)]) is None
    assert typical_diameter(nuclei, []) is None


def test_images_are_predicted_at_the_diameter_that_was_found_out(tmp_path, capfd):
    cv2.imwrite(str(tmp_path / "a.png"), disks(20, side=400))
    command = ["predict", str(tmp_path), "--model", "nuclei", "--device", "cpu", "--diameter", "auto"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "px across" in capfd.readouterr().err
    assert len(rows(tmp_path / "out" / "instances.csv")) == 9


@pytest.mark.parametrize("wrong", [0.5, -3, 1e6, float("nan")])
def test_a_diameter_out_of_range_is_refused(nuclei, wrong):
    with pytest.raises(UserError, match="diameter"):
        nuclei.at_diameter(wrong)


def test_a_model_that_does_not_say_how_large_its_objects_were():
    with pytest.raises(UserError, match="--side"):
        load("clicks", device="cpu", precision="fp32").at_diameter(20)


class Plants:
    categories = CATEGORIES

    def __len__(self):
        return 3

    def targets(self, index):
        return rosette(index, (96, 96), (4, 6)).targets


def test_runs_say_how_large_their_objects_were():
    own = object_diameter(Plants(), Preprocess(short_side=None))
    assert 5 < own < 96
    assert object_diameter(Plants(), Preprocess(short_side=192, long_side=192)) == pytest.approx(2 * own, rel=0.02)
    assert object_diameter(Plants(), Preprocess(fixed_size=(64, 64))) is None
    boxes = [Plants().targets(0)]
    boxes[0] = boxes[0].__class__(boxes[0].image_size, torch.tensor([[0.0, 0, 10, 10]]))
    only = type("Boxes", (), {"__len__": lambda s: 1, "targets": lambda s, i: boxes[i]})()
    assert object_diameter(only, Preprocess(short_side=None)) == pytest.approx(2 * np.sqrt(50 / np.pi), abs=0.1)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tables_have_micrometers(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), disks(8))
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "a.png"), "--model", "nuclei", "--out", str(out), "--device", "cpu"]
    assert main([*command, "--pixel-size", "0.5", "--diameter", "8", "--save", "csv"]) == 0
    found = rows(out / "instances.csv")
    assert found and rows(out / "csv" / "a.csv") == found
    for row in found:
        assert float(row["area_um2"]) == pytest.approx(float(row["area"]) / 4)
        assert float(row["perimeter_um"]) == pytest.approx(float(row["perimeter"]) / 2)
        assert float(row["diameter_um"]) == pytest.approx(2 * np.sqrt(float(row["area_um2"]) / np.pi), rel=1e-4)


def test_files_that_say_how_large_their_pixels_are_need_not_be_told(tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), disks(8))
    said = {"axes": "YXS", "PhysicalSizeX": 2.0}
    tifffile.imwrite(tmp_path / "a.tif", disks(8), ome=True, metadata=said)
    assert main(["predict", str(tmp_path), "--model", "nuclei", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    found = rows(tmp_path / "out" / "instances.csv")
    told = {row["image"]: row["area_um2"] for row in found}
    assert told["b.png"] == "" and any(
        row["image"] == "a.tif" and float(row["area_um2"]) == 4 * float(row["area"]) for row in found
    )


@pytest.mark.parametrize("wrong", [["--pixel-size", "0"], ["--diameter", "9", "--side", "200"], ["--diameter", "0"]])
def test_nonsense_is_refused(tmp_path, wrong):
    cv2.imwrite(str(tmp_path / "a.png"), disks(8))
    assert main(["predict", str(tmp_path / "a.png"), "--model", "nuclei", "--out", str(tmp_path / "out"), *wrong]) == 2
