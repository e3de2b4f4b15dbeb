"""Mattes on the command line: from masks, from trimaps; what is written obeys I = alpha F + (1 - alpha) B."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from stand_in_pymatting import stand_in  # noqa: F401

from eachmask.cli import main
from eachmask.inference.load import load
from eachmask.inference.matting import CutPredictor, MattePredictor
from eachmask.ops.matting import own_colors, solve_foreground
from eachmask.server.models import Models
from eachmask.server.settings import ServerSettings
from eachmask.structures import RLE, Instances, Matte, Trimap, UserError
from eachmask.structures.backdrop import Backdrop
from eachmask.tasks.matting import composite, covering

needs_solvers = pytest.mark.usefixtures("stand_in")


def soft_disk(size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """An orange disk with a soft edge before blue: image (H, W, 3) uint8 and alpha."""
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    alpha = ((18 - np.hypot(ys - 30, xs - 40)) / 6 + 0.5).clip(0, 1)
    image = alpha[..., None] * [220, 140, 40] + (1 - alpha[..., None]) * [30, 50, 160]
    return np.rint(image).astype(np.uint8), alpha


def trimap_of(alpha: np.ndarray) -> np.ndarray:
    return np.where(alpha >= 1, 255, np.where(alpha <= 0, 0, 128)).astype(np.uint8)


@pytest.fixture()
def files(tmp_path: Path) -> Path:
    image, alpha = soft_disk()
    Image.fromarray(image).save(tmp_path / "disk.png")
    Image.fromarray(trimap_of(alpha)).save(tmp_path / "trimap.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (90, 100, 3), dtype=np.uint8)).save(tmp_path / "beach.png")
    return tmp_path


@needs_solvers
def test_from_a_trimap_to_files_that_obey_the_equation(files: Path):
    out = files / "out"
    words = ["matte", str(files / "disk.png"), "--trimap", str(files / "trimap.png"), "--solver", "closed_form"]
    words += ["--device", "cpu"]
    assert main([*words, "--onto", str(files / "beach.png"), "--out", str(out)]) == 0
    (alpha,) = (out / "alpha").rglob("*.png")
    (rgba,) = (out / "rgba").rglob("*.png")
    (mixed,) = (out / "composite").rglob("*.png")
    deep = cv2.imread(str(alpha), cv2.IMREAD_UNCHANGED)
    assert deep.dtype == np.uint16
    a = deep[..., None] / 65535
    front = np.array(Image.open(rgba)).astype(np.float64)
    behind = covering(np.array(Image.open(files / "beach.png")), deep.shape)
    found = np.array(Image.open(mixed)).astype(np.float64)
    assert np.abs(found - (a * front[..., :3] + (1 - a) * behind)).max() <= 0.5 + 1e-9
    assert np.abs(front[..., 3] / 255 - a[..., 0]).max() <= 0.5 / 255 + 1e-4
    image, true = soft_disk()
    assert np.abs(a[..., 0] - true).max() < 0.05
    edge = (true > 0.3) & (true < 1)
    assert np.abs(front[edge][:, :3] - [220, 140, 40]).max() < 30, "the blue of the old background is gone"
    assert json.loads((out / "summary.json").read_text())["done"] == 1


@needs_solvers
def test_what_is_left_over_is_shared_out():
    """The foreground and some background in 0..1 give the image again, and where all is foreground it is the image."""
    image, alpha = soft_disk()
    pixels = image / 255
    front = own_colors(pixels, alpha)
    assert np.abs(front - pixels)[alpha == 1].max() < 1e-6
    soft = alpha < 1
    behind = (pixels - alpha[..., None] * front)[soft] / (1 - alpha[soft][..., None])
    assert behind.min() > -0.05 and behind.max() < 1.05
    _, back = solve_foreground(pixels, alpha)
    assert np.abs(back[alpha == 0] - pixels[alpha == 0]).max() < 0.02


class Finder:
    """Finds the disk."""

    fingerprint, categories = "finder", ()

    def __init__(self, empty: bool = False) -> None:
        self.empty = empty

    def decode_options(self, options=None):
        return options

    def tile_size(self, tile=None, overlap=0.2, stride=None):
        return 0

    def predict_arrays(self, images, **wishes):
        inside = (soft_disk()[1] >= 0.5)[None][: 0 if self.empty else 1]
        masks = RLE.from_bitmaps(inside) if len(inside) else RLE.empty((60, 80))
        return [Instances((60, 80), torch.from_numpy(masks.boxes()), masks, scores=torch.ones(len(masks)))]


@needs_solvers
def test_from_the_masks_of_objects():
    image, true = soft_disk()
    cut = CutPredictor(Finder(), load("closed_form"), band=0.12)
    matte = cut.predict(image)
    assert np.abs(matte.alpha.numpy() - true).mean() < 0.01 and matte.foreground is not None
    hard = np.abs((true >= 0.5) - true).mean()
    assert np.abs(matte.alpha.numpy() - true).mean() < hard, "softer than the mask it was made of"
    assert CutPredictor(Finder(empty=True), load("closed_form")).predict(image).alpha.sum() == 0


def test_a_model_of_ones_own_takes_the_place_of_a_solver(files: Path):
    from eachmask import models
    from eachmask.structures import Category, Preprocess
    from eachmask.weights.file import save_model
    from eachmask.weights.header import ModelInfo

    own = Preprocess(short_side=None, long_side=None)
    info = ModelInfo("deep_matting_lite0", {}, own, (Category(1, "foreground"),))
    file = save_model(files / "own.safetensors", models.variant("deep_matting_lite0")().eval(), info)
    words = ["matte", str(files / "disk.png"), "--trimap", str(files / "trimap.png"), "--solver", str(file)]
    assert main([*words, "--device", "cpu", "--out", str(files / "out")]) == 0
    (alpha,) = (files / "out" / "alpha").rglob("*.png")
    found, known = cv2.imread(str(alpha), cv2.IMREAD_UNCHANGED), trimap_of(soft_disk()[1])
    assert (found[known == 255] == 65535).all() and (found[known == 0] == 0).all()


@needs_solvers
@pytest.mark.parametrize("name", ["closed_form", "knn_matting", "learning_based_matting", "random_walk_matting"])
def test_every_solver(name: str):
    image, true = soft_disk()
    known = Trimap(torch.from_numpy(trimap_of(true)))
    matte = MattePredictor(load(name), known).predict(image)
    assert np.abs(matte.alpha.numpy() - true).mean() < 0.02


@needs_solvers
def test_large_images_are_solved_smaller():
    image, true = soft_disk()
    large = cv2.resize(image, (320, 240), interpolation=cv2.INTER_LINEAR)
    alpha = cv2.resize(true, (320, 240), interpolation=cv2.INTER_LINEAR)
    predictor = load("closed_form")
    predictor.model.config = type(predictor.model.config)(max_side=60)
    matte = MattePredictor(predictor, Trimap(torch.from_numpy(trimap_of(alpha)))).predict(large)
    assert np.abs(matte.alpha.numpy() - alpha).mean() < 0.02


def test_without_the_package_one_sentence(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    out = files / "out"
    words = ["matte", str(files / "disk.png"), "--trimap", str(files / "trimap.png"), "--device", "cpu"]
    assert main([*words, "--out", str(out)]) == 1
    assert "pip install 'eachmask[matting]'" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trimap", "wide.png"], "the trimap has 30 x 20 px and the image 80 x 60"),
        (["--trimap", "trimap.png", "--background", "disk.png"], "not both"),
        (["--background", "disk.png"], "needs a model that compares"),
        (["--onto", "no-such-color", "--trimap", "trimap.png"], "neither an image file nor a color"),
        (["--solver", "magic"], "--solver knows mattes, closed_form"),
        (["--band", "-1"], "--band is a share"),
        (["--model", "closed_form"], "wants a trimap with the image: give --trimap"),
        (["--model", "grabcut", "--trimap", "trimap.png"], "leave out --model"),
    ],
)
def test_mistakes_in_one_sentence(words, message, files: Path, capsys, monkeypatch):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(files / "wide.png")
    monkeypatch.chdir(files)
    assert main(["matte", "disk.png", *words, "--out", "out", "--device", "cpu"]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_images_may_be_shared_out(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["matte", str(files / "disk.png"), "--trimap", str(files / "trimap.png"), "--device", "cpu"]
    assert main([*words, "--on", "local", "--out", str(files / "out")]) == 2
    assert "pip install 'eachmask[ray]'" in capsys.readouterr().err.replace("\n", " ")


def test_covering_keeps_proportions():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 15:25] = 200
    found = covering(image, (20, 20))
    assert found.shape == (20, 20, 3) and (found[:, 2:18] == 200).all()
    matte = Matte(torch.full((20, 20), 0.5))
    mixed = composite(matte, np.full((20, 20, 3), 100, np.uint8), image)
    assert (mixed[:, 5:15] == 150).all()


def test_a_model_of_objects_takes_nothing():
    with pytest.raises(UserError, match="makes no mattes"):
        MattePredictor(load("grabcut"))


def test_backdrops_lie_on_images():
    backdrop = Backdrop(torch.rand(3, 4, 6))
    assert backdrop.crop((1, 1, 4, 3)).image_size == (2, 3)
    assert torch.equal(backdrop.flip().flip().colors, backdrop.colors)
    with pytest.raises(ValueError, match=r"\(3, H, W\) float"):
        Backdrop(torch.zeros(4, 6))


def test_images_alone_are_refused_before_anything_is_loaded(files: Path, capsys: pytest.CaptureFixture[str]):
    """By commands that hand over nothing with an image, and by the server before it begins."""
    sentence = "mattes wants a trimap with every image, which `eachmask matte` hands over"
    assert main(["predict", str(files / "disk.png"), "--model", "mattes", "--out", str(files / "out")]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split()) and not (files / "out").exists()
    with pytest.raises(UserError, match="mattes wants a trimap"):
        Models(ServerSettings(("mattes",), ("k" * 20,), device="cpu"))
