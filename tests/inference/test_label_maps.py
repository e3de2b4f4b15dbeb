"""Label maps of whole images, of tiles, and of several looks; and how they are written."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import eachmask
from eachmask import cli, models
from eachmask.inference.predictor import Predictor
from eachmask.structures import Category, Preprocess, SemanticMap, UserError
from eachmask.tasks.semantic import SEMANTIC
from eachmask.weights.file import save_model
from eachmask.weights.header import ModelInfo

CLASSES = (Category(1, "dark"), Category(2, "bright"), Category(3, "red"))


PLAIN = Preprocess(short_side=None, long_side=None, divisor=8)
INFO = ModelInfo("sliding_window", {"widths": [4], "kernel": 3, "hidden": 4}, PLAIN, CLASSES)


def network():
    """An FCN whose scores are the means of 8 x 8 px: it needs no training."""
    torch.manual_seed(0)
    return models.sliding_window(3, **INFO.config).eval()


@pytest.fixture(scope="module")
def predictor():
    return Predictor(network(), INFO, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (9, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def test_tiles_give_what_the_whole_image_gives(predictor, image):
    whole = predictor.predict(image)
    tiled = predictor.predict(image, tile=48, overlap=0.4)
    assert whole.categories == CLASSES and whole.scores is None and tiled.scores is None
    assert float((whole.labels != tiled.labels).float().mean()) < 0.02


def test_tiles_at_a_fixed_stride(predictor, image, tmp_path):
    whole = predictor.predict(image)
    slid = predictor.predict(image, tile=48, stride=40)
    assert float((whole.labels != slid.labels).float().mean()) < 0.05
    with pytest.raises(UserError, match="leaves gaps"):
        predictor.predict(image, tile=48, stride=49)
    with pytest.raises(UserError, match="label pixels"):
        Predictor(
            models.fcos_lite0_fpn(1).eval(), ModelInfo("fcos_lite0_fpn", {}, Preprocess(), CLASSES[:1]), device="cpu"
        ).predict(image, tile=48, stride=40)
    model, photo = tmp_path / "model.safetensors", tmp_path / "photo.png"
    save_model(model, network(), INFO)
    Image.fromarray(image).save(photo)
    call = ["predict", str(photo), "--model", str(model), "--tile", "48", "--stride", "40", "--save", "labels"]
    assert cli.main([*call, "--device", "cpu", "--precision", "fp32", "--out", str(tmp_path / "out")]) == 0
    (written,) = (tmp_path / "out" / "labels").glob("*.png")
    assert np.array_equal(np.asarray(Image.open(written)), slid.labels.numpy())


def test_several_looks_are_averaged(predictor, image):
    twice = predictor.multi_scale((1.0,), flip=True)
    assert twice.fingerprint != predictor.fingerprint
    found, mirrored = twice.predict(image), twice.predict(np.ascontiguousarray(image[:, ::-1]))
    assert float((found.labels != mirrored.labels.flip(-1)).float().mean()) < 1e-3, "no side is preferred"
    assert predictor.multi_scale((0.5, 1.0, 1.5)).predict(image).image_size == image.shape[:2]
    own = Predictor(network(), replace(INFO, scales=(0.5, 1.0)), device="cpu", precision="fp32")
    wanted = predictor.multi_scale((0.5, 1.0)).predict(image)
    assert torch.equal(own.predict(image).labels, wanted.labels) and own.fingerprint != predictor.fingerprint
    assert torch.equal(
        own.multi_scale((1.0,)).predict(image).labels, predictor.multi_scale((1.0,)).predict(image).labels
    )
    same = predictor.multi_scale((1.0,)).predict(image)
    assert float((same.labels != predictor.predict(image).labels).float().mean()) < 1e-3


@pytest.mark.parametrize("scales", [(), (0.1,), (9.0,)])
def test_scales_out_of_range_are_refused(predictor, scales):
    with pytest.raises(UserError, match="--scales"):
        predictor.multi_scale(scales)


def test_answers_to_prompts_are_neither_averaged_nor_joined():
    with pytest.raises(UserError, match="leave out --scales, --flip"):
        eachmask.load("clicks", device="cpu", precision="fp32").multi_scale((1.0,), flip=True)


def test_a_map_is_written_with_a_palette():
    seen = SemanticMap(torch.tensor([[0, 1, 2, 255]]), CLASSES)
    (data,) = SEMANTIC.outputs.writers["palette"]("a", seen, np.zeros((1, 4, 3), np.uint8)).files.values()
    with Image.open(io.BytesIO(data)) as file:
        assert file.mode == "P" and np.asarray(file).tolist() == [[0, 1, 2, 255]]
        assert file.convert("RGB").getpixel((3, 0)) == (255, 255, 255)
    many = SemanticMap(torch.tensor([[0, 300]]), tuple(Category(i, str(i)) for i in range(400)), ignore=65535)
    with pytest.raises(UserError, match="256 colors"):
        SEMANTIC.outputs.writers["palette"]("a", many, np.zeros((1, 2, 3), np.uint8))
    (data,) = SEMANTIC.outputs.writers["labels"]("a", many, np.zeros((1, 2, 3), np.uint8)).files.values()
    with Image.open(io.BytesIO(data)) as file:
        assert np.asarray(file).tolist() == [[0, 300]]
