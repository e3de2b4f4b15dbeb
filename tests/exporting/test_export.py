"""Exported files give what their models give, through the same predictor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models.test_contract import CASES, Case
from PIL import Image

import eachmask
from eachmask.cli import main
from eachmask.exporting.export import write_exported
from eachmask.structures import Category, DecodeOptions, Preprocess, UserError
from eachmask.weights.file import save_model
from eachmask.weights.header import ModelInfo

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

QUICK = {"mask_rcnn_lite0_p3", "condinst_lite0_fpn"}
SLOW = {"stardist_lite0", "fcos_lite0_fpn", "yolact_lite0"}
OTHERS = [case for case in CASES if case.variant in QUICK | SLOW]
CHOSEN = [pytest.param(c, id=c.variant, marks=() if c.variant not in SLOW else pytest.mark.slow) for c in OTHERS]


def info_of(case: Case) -> ModelInfo:
    categories = tuple(Category(i + 1, f"class {i}") for i in range(case.num_classes))
    return ModelInfo(case.variant, case.config, Preprocess(short_side=None), categories, name=case.variant)


def image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    found[20:50, 15:45] = (200, 90, 40)
    return found


@pytest.mark.parametrize("case", CHOSEN)
def test_detections_are_the_models(case: Case, tmp_path: Path) -> None:
    model, info, file = case.build(), info_of(case), tmp_path / "model.onnx"
    write_exported(file, model, info, "onnx", "fp32", {})
    exported = eachmask.load(file)
    own = eachmask.Predictor(model, info, device="cpu", precision="fp32", optimize=False)
    options = DecodeOptions(score_threshold=case.score)
    sizes = ((64, 96), (75, 131), (110, 70))
    images = [image(size, seed) for seed, size in enumerate(sizes)]
    for a, b in zip(
        own.predict([*images, images[0]], options=options),
        exported.predict([*images, images[0]], options=options),
        strict=True,
    ):
        assert len(a) == len(b)
        torch.testing.assert_close(a.boxes, b.boxes, atol=0.1, rtol=0)
        torch.testing.assert_close(a.scores, b.scores, atol=1e-3, rtol=0)
        if a.masks is not None and len(a):
            iou = np.asarray(a.masks.iou(b.masks)).diagonal()
            assert (iou[a.masks.area() > 0] > 0.99).all()
    assert not len(exported.predict(images[0], options=replace(options, score_threshold=1.0)))


CELLS = next(case for case in CASES if case.variant == "flows_cpnet")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CELLS
    save_model(tmp_path / "cells.safetensors", case.build(), info_of(case))
    out = tmp_path / "cells.onnx"
    assert main(["export", str(tmp_path / "cells.safetensors"), "--to", "onnx", "--out", str(out)]) == 0
    assert "equal to the model" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "cells.safetensors"), "--out", str(tmp_path / "cells.xml")]) == 2
    assert main(["export", str(tmp_path / "cells.safetensors"), "--precision", "bf16"]) == 2
    with pytest.raises(UserError, match="fp32, not in bf16"):
        eachmask.load(out, precision="bf16")
    with pytest.raises(UserError, match="does not exist"):
        eachmask.load(tmp_path / "absent.onnx")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of cells, exported; beside it the model and a data set of one image."""
    folder = tmp_path_factory.mktemp("cells")
    model, info = CELLS.build(), info_of(CELLS)
    save_model(folder / "cells.safetensors", model, info)
    write_exported(folder / "cells.onnx", model, info, "onnx", "fp32", {})
    (folder / "images").mkdir()
    Image.fromarray(image((64, 96))).save(folder / "images" / "a.png")
    square = [15, 20, 45, 20, 45, 50, 15, 50]
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 900, "bbox": [15, 20, 30, 30]}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
        "annotations": [one | {"segmentation": [square]}],
        "categories": [{"id": 1, "name": "class 0"}],
    }
    (folder / "data.json").write_text(json.dumps(data))
    return folder / "cells.onnx"


def test_predict_gives_the_models_objects(cells: Path, tmp_path: Path) -> None:
    found = []
    for model in (cells, cells.with_suffix(".safetensors")):
        out = tmp_path / model.suffix[1:]
        arguments = ["predict", str(cells.parent / "images"), "--model", str(model), "--score", "0", "--out", str(out)]
        assert main([*arguments, *([] if model == cells else ["--precision", "fp32"])]) == 0
        found.append(json.loads((out / "predictions.json").read_text())["annotations"])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=1)


def test_evaluate_measures_it(cells: Path, tmp_path: Path) -> None:
    data = ["--data", str(cells.parent / "data.json"), "--images", str(cells.parent / "images")]
    assert main(["evaluate", str(cells), *data, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "evaluation.json").is_file()


def test_show_prints_its_settings(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(cells), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == "flows_cpnet"


def test_only_models_are_exported(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(cells), "--out", str(tmp_path / "again.onnx")]) == 2
    assert "can only be run" in capsys.readouterr().err
    assert not (tmp_path / "again.onnx").exists()


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="cannot be opened"):
        eachmask.load(tmp_path / "broken.onnx")
