"""Checkpoints of other projects as model files: found out, read without running them, and what does not fit is said."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import eachmask
from eachmask import cli, models
from eachmask.structures import ImageBatch, UserError
from eachmask.weights.adopt import adopt
from eachmask.weights.file import load_model

NAME = "lraspp_mobilenet_v3_large"


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()


@pytest.mark.parametrize("ending", ["pth", "safetensors", "pkl"])
def test_every_kind_of_file_is_read(theirs, tmp_path, ending):
    path, state = tmp_path / f"theirs.{ending}", theirs.state_dict()
    if ending == "pth":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    elif ending == "safetensors":
        save_file(state, path)
    else:
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}))
    model, info = adopt(path, NAME)
    assert len(info.categories) == 21 and info.preprocess.short_side == 520 and "not looked up" in info.license
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = model(ImageBatch(image, ((64, 64),))).logits
        full = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear")
        assert torch.allclose(full, theirs(image)["out"], atol=1e-5)


def test_by_command(theirs, tmp_path, capsys):
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(21)) + "\n")
    call = ["import", str(tmp_path / "theirs.pth"), NAME, "--out", str(tmp_path / "mine.safetensors")]
    assert cli.main([*call, "--classes", str(tmp_path / "classes.txt")]) == 0
    assert "21 classes" in capsys.readouterr().out
    predictor = eachmask.load(tmp_path / "mine.safetensors", device="cpu")
    assert predictor.info.categories[20].name == "class 20"
    assert predictor.info.preprocess.channels == "rgb"
    assert cli.main([*call, "--bgr"]) == 0
    assert eachmask.load(tmp_path / "mine.safetensors", device="cpu").info.preprocess.channels == "bgr"
    assert predictor.predict(torch.zeros(40, 50, 3, dtype=torch.uint8).numpy()).image_size == (40, 50)
    assert cli.main([*call[:-1], str(tmp_path / "mine.onnx")]) == 2


def test_what_does_not_fit_is_said(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="does not fit"):
        adopt(tmp_path / "theirs.pth", "deeplabv3_mobilenet_v3_large")
    with pytest.raises(UserError, match="of another shape"):
        adopt(tmp_path / "theirs.pth", NAME, ["one", "two"])
    with pytest.raises(UserError, match="--classes"):
        adopt(tmp_path / "theirs.pth", "unet_tiny")
    with pytest.raises(UserError, match="cannot be read"):
        adopt(tmp_path / "absent.pth", NAME)


@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_nothing_in_a_file_is_run(tmp_path, ending):
    class Runs:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "ran", "")

    path = tmp_path / f"evil.{ending}"
    path.write_bytes(pickle.dumps({"model": {"a": Runs()}}))
    with pytest.raises(UserError):
        adopt(path, NAME)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("variant", "license"),
    [("background_matting_v2_mobilenetv2", "MIT"), ("robust_video_matting_mobilenetv3", "GPL-3.0")],
)
def test_networks_of_mattes_by_command(variant, license, tmp_path, capsys):
    """Their authors' names are ours (tests/parity has them): what they publish becomes a model file that mattes."""
    torch.manual_seed(0)
    model = models.variant(variant)().eval()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    call = ["import", str(tmp_path / "theirs.pth"), variant, "--out", str(tmp_path / "mine.safetensors")]
    assert cli.main(call) == 0
    assert f"license: {license} " in capsys.readouterr().out
    predictor = eachmask.load(tmp_path / "mine.safetensors", device="cpu")
    assert predictor.info.preprocess.short_side is None, "it reduces images by itself"
    own = load_model(tmp_path / "mine.safetensors")[0].state_dict()
    assert own.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.allclose(own[name].float(), value.float(), rtol=1e-2, atol=1e-3), name
    (tmp_path / "classes.txt").write_text("person\n")
    assert cli.main([*call, "--classes", str(tmp_path / "classes.txt")]) == 2
    assert "have no classes" in " ".join(capsys.readouterr().err.split())
