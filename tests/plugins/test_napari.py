from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from eachmask.cli import main
from eachmask.data.formats.label_maps import numbers_in
from eachmask.plugins import napari
from eachmask.structures import UserError

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "src" / "eachmask" / "plugins" / "napari.yaml"


def disks() -> np.ndarray:
    image = np.full((120, 160, 3), 20, np.uint8)
    for x in (30, 80, 130):
        cv2.circle(image, (x, 60), 12, (200, 200, 200), -1)
    return image


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("napari")
    cv2.imwrite(str(folder / "a.png"), disks())
    command = ["predict", str(folder / "a.png"), "--model", "nuclei", "--out", str(folder / "out"), "--device", "cpu"]
    assert main([*command, "--save", "labels"]) == 0
    return folder / "out"


@pytest.mark.parametrize("name", ["", "predictions.json"])
def test_results_open_as_image_and_labels(results, name):
    reader = napari.get_reader(str(results / name))
    assert reader is not None
    (image, _, kind), (labels, settings, of_objects) = reader(str(results / name))
    assert (kind, of_objects) == ("image", "labels") and image.shape == (120, 160, 3) and labels.shape == (120, 160)
    assert labels.max() == 3 and labels[60, 30] and not labels[0, 0]
    assert settings["features"]["class"] == ["", *["nucleus"] * 3] and len(settings["features"]["score"]) == 4


def test_label_maps_open_as_labels_and_come_back_equal(results, tmp_path):
    path = results / "labels" / "a.png"
    reader = napari.get_reader([str(path)])
    assert reader is not None
    ((labels, settings, kind),) = reader([str(path)])
    assert kind == "labels" and settings["name"] == "a" and labels.max() == 3
    (written,) = napari.write_labels(str(tmp_path / "b.png"), labels, {})
    assert np.array_equal(numbers_in(Path(written)), labels)
    with pytest.raises(UserError, match="two dimensions"):
        napari.write_labels(str(tmp_path / "c.png"), labels[None], {})


def test_other_files_are_left_to_others(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), disks())
    assert napari.get_reader(str(tmp_path / "a.png")) is None and napari.get_reader(str(tmp_path)) is None


def test_nuclei_of_a_layer():
    labels = napari.find_nuclei(disks())
    assert labels.shape == (120, 160) and labels.max() == 3
    assert napari.find_nuclei(disks()[..., 0], diameter=24).max() == 3


def test_the_manifest_names_what_is_there():
    contributions = yaml.safe_load(MANIFEST.read_text())["contributions"]
    commands = {command["id"]: command["python_name"] for command in contributions["commands"]}
    for name in commands.values():
        module, function = name.split(":")
        assert callable(getattr(import_module(module), function))
    for kind in ("readers", "writers", "widgets"):
        assert all(one["command"] in commands for one in contributions[kind])
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["napari.manifest"]
    package, file = points["eachmask"].split(":")
    assert (Path(import_module(package).__file__ or "").parent / file).is_file()


def test_the_manifest_is_one_for_npe2():
    npe2 = pytest.importorskip("npe2")
    assert npe2.PluginManifest.from_file(MANIFEST).name == "eachmask"
