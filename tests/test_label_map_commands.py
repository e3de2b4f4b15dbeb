"""Label maps by command: a loss of one's own, and several looks at an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eachmask
from eachmask.cli import main
from eachmask.weights.file import load_model

RECIPE = """
from dataclasses import replace

import eachmask
from eachmask.recipes.auto_recipe import auto_recipe
from eachmask.structures import SemanticMap


def hard_and_dice():
    data = eachmask.data.read({data!r}, target=SemanticMap).splits["train"]
    recipe, _ = auto_recipe("sliding_window", data, start="none", size=64)
    return replace(recipe, config={{**recipe.config, "loss": {{"hard": 0.25, "dice": 1.0}}}})
"""
ON_CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of two classes."""
    folder = tmp_path_factory.mktemp("street")
    for number in range(4):
        labels = np.zeros((64, 64), np.uint8)
        labels[8:40, 8 * number : 8 * number + 24] = 1
        for split in ("train",) if number else ("train", "val"):
            for name, pixels in (("images", 60 + 120 * labels), ("classes", labels)):
                (folder / name / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name / split / f"{number}-{split}.png")
    (folder / "classes.txt").write_text("ground\ncar\n")
    return folder


@pytest.fixture(scope="module")
def run(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.py").write_text(RECIPE.format(data=str(street)))
    call = ["train", f"{folder / 'mine.py'}:hard_and_dice", "--data", str(street), "--out", str(folder / "out")]
    assert main([*call, "--steps", "2", "--batch", "2", *ON_CPU]) == 0
    return folder / "out"


def test_a_recipe_chooses_the_loss(run: Path) -> None:
    model, _ = load_model(run / "model.safetensors")
    assert (model.loss.hard, model.loss.dice, model.loss.lovasz) == (0.25, 1.0, 0.0)
    header = (run / "log.csv").read_text().splitlines()[0]
    assert "dice" in header and "lovasz" not in header


def test_several_looks_by_command(run: Path, street: Path, tmp_path: Path) -> None:
    photo, results = street / "images" / "val" / "0-val.png", tmp_path / "results"
    call = ["predict", str(photo), "--model", str(run), "--save", "labels", *ON_CPU]
    assert main([*call, "--scales", "0.75", "1", "1.25", "--flip", "--out", str(results)]) == 0
    (written,) = (results / "labels").glob("*.png")
    averaged = eachmask.load(run, device="cpu", precision="fp32").multi_scale((0.75, 1.0, 1.25), flip=True)
    expected = averaged.predict(np.asarray(Image.open(photo).convert("RGB")))
    assert np.array_equal(np.asarray(Image.open(written)), expected.labels.numpy())
    call = ["evaluate", "--predictions", str(results), "--task", "semantic", "--data", str(street), "--split", "val"]
    assert main([*call, "--out", str(tmp_path / "report")]) == 0
    measured = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    accuracy = float((expected.labels.numpy() == np.asarray(Image.open(street / "classes/val/0-val.png"))).mean())
    assert measured["measured"]["semantic"]["pixel_accuracy"] == pytest.approx(accuracy)
