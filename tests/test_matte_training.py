"""A folder of images and mattes trains a model of trimaps, by command; what it learned fills in trimaps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from stand_in_pymatting import stand_in  # noqa: F401

from eachmask.cli import main
from eachmask.weights.file import read_info

ON_CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Soft disks before noise, without trimaps."""
    ys, xs = np.mgrid[:64, :64] + 0.5
    for number in range(4):
        alpha = ((18 - np.hypot(ys - 30, xs - 26 - 4 * number)) / 6 + 0.5).clip(0, 1)
        noise = np.random.default_rng(number).integers(0, 90, (64, 64, 3))
        image = alpha[..., None] * [220, 140, 40] + (1 - alpha[..., None]) * noise
        split = "train" if number else "val"
        for name, pixels in (("images", image), ("alpha", 255 * alpha)):
            (tmp_path / "disks" / name / split).mkdir(parents=True, exist_ok=True)
            pixels = np.rint(pixels).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "disks" / name / split / f"{number}.png")
    return tmp_path


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("variant", ["dcnn_matting", "mattes"])
def test_from_mattes_to_a_model_of_trimaps(variant: str, folder: Path):
    run = folder / "run"
    words = ["train", variant, "--data", str(folder / "disks"), "--out", str(run), "--steps", "2", "--batch", "2"]
    assert main([*words, *ON_CPU]) == 0
    written = (run / "recipe.py").read_text()
    assert "mix=Trimapped(" in written and "ask=automatic" in written
    assert read_info(run / "model.safetensors").preprocess.mean == (0.0, 0.0, 0.0), (
        "the solver wants colors as they are"
    )
    image = folder / "disks/images/val/0.png"
    known = np.full((64, 64), 128, np.uint8)
    known[:8], known[26:34, 22:30] = 0, 255
    Image.fromarray(known).save(folder / "trimap.png")
    out = ["--out", str(folder / "out"), *ON_CPU]
    assert main(["matte", str(image), "--trimap", str(folder / "trimap.png"), "--solver", str(run), *out]) == 0
    (alpha,) = (folder / "out/alpha").rglob("*.png")
    found = cv2.imread(str(alpha), cv2.IMREAD_UNCHANGED)
    assert (found[known == 255] == 65535).all() and (found[known == 0] == 0).all() and np.ptp(found[known == 128]) > 0


def test_from_clean_backgrounds_to_a_model_that_compares(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Trained, measured and used with photographs of the backgrounds alone; without them one sentence."""
    run, disks = folder / "run", folder / "disks"
    words = ["train", "background_matting_small", "--data", str(disks), "--out", str(run), "--steps", "2", *ON_CPU]
    words += ["--batch", "2"]
    assert main(words) == 2
    assert "backgrounds/" in capsys.readouterr().err and not (run / "model.safetensors").exists()
    for image in sorted((disks / "images").rglob("*.png")):
        number = int(image.stem)
        noise = np.random.default_rng(number).integers(0, 90, (64, 64, 3)).astype(np.uint8)
        behind = disks / "backgrounds" / image.relative_to(disks / "images")
        behind.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(behind)
    assert main(words) == 0
    assert "brightness=0.03" in (run / "recipe.py").read_text(), "the light of both photographs stays alike"
    assert main(["evaluate", str(run), "--data", str(disks), "--split", "val", "--out", str(folder / "e")]) == 0
    image, behind = disks / "images/val/0.png", disks / "backgrounds/val/0.png"
    out = ["--out", str(folder / "out"), *ON_CPU]
    assert main(["matte", str(image), "--model", str(run), "--background", str(behind), *out]) == 0
    assert len(list((folder / "out/alpha").rglob("*.png"))) == 1
