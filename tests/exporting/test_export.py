"""Exported files give what their models give, through the same predictor."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.test_contract import CASES, Case
from PIL import Image

import eachmask
from eachmask.cli import main
from eachmask.exporting.export import write_exported
from eachmask.runtimes.header import Header
from eachmask.runtimes.sessions import OpenVinoSession
from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.file import save_model
from eachmask.weights.header import ModelInfo

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def info_of(case: Case) -> ModelInfo:
    categories = tuple(Category(i + 1, f"class {i}") for i in range(case.num_classes))
    return ModelInfo(case.variant, case.config, Preprocess(short_side=None), categories, name=case.variant)


def image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    found[20:50, 15:45] = (200, 90, 40)
    return found


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


def test_torch_that_loses_itself_in_sizes_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eachmask.exporting.export.MAX_SECONDS", 0.01)
    save_model(tmp_path / "cells.safetensors", CELLS.build(), info_of(CELLS))
    assert (
        main(["export", str(tmp_path / "cells.safetensors"), "--to", "torch-export", "--out", str(tmp_path / "c.pt2")])
        == 2
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "give --size HEIGHT WIDTH): torch is not done after 0.01 s" in said
    assert not list(tmp_path.glob("c.*"))


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


def test_int8_is_calibrated_and_measured(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = str(cells.with_suffix(".safetensors")), str(cells.parent / "data.json")
    images, out = str(cells.parent / "images"), tmp_path / "small.onnx"
    wishes = ["export", model, "--precision", "int8", "--out", str(out)]
    assert main(wishes) == 2
    assert "give --data" in capsys.readouterr().err
    assert main([*wishes, "--data", data, "--images", images]) == 0
    assert "ap 0.0 -> 0.0" in capsys.readouterr().out
    predictor = eachmask.load(out)
    assert predictor.info.scores["int8_ap"] == 0 and out.stat().st_size < cells.stat().st_size
    assert repr(predictor).endswith("int8)")
    assert predictor.predict(image((64, 96))).image_size == (64, 96)
    monkeypatch.setattr("eachmask.exporting.int8.MAX_LOSS", -1.0)
    out.unlink()
    assert main([*wishes, "--data", data, "--images", images]) == 2
    assert "loses 0.0 points of ap" in capsys.readouterr().err and not out.exists()


def test_pickles_in_a_program_are_not_read(tmp_path: Path) -> None:
    file, weights = tmp_path / "model.pt2", {"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data/weights/model_weights_config.json", json.dumps(weights))
    with pytest.raises(UserError, match="holds pickled objects"):
        eachmask.load(file)


@pytest.mark.parametrize("changes", [
    {"model": "1" * 5_000}, {"model": {"tile": 1}},
    {"model": []}, {"weights": "!"}, {"weights": "AAAA"}, {"format": []},
])  # fmt: skip
def test_a_damaged_header_is_one_sentence(changes: dict[str, object]) -> None:
    whole = json.loads(Header(ModelInfo("spots"), "forward", {}).to_json())
    with pytest.raises(UserError, match="the header of a.onnx cannot be used"):
        Header.from_json(json.dumps(whole | changes).replace('"' + "1" * 5_000 + '"', "1" * 5_000), "a.onnx")
    with pytest.raises(UserError, match="the header of a.onnx cannot be used"):
        Header.from_json("[" * 100_000, "a.onnx")


def test_openvino_computes_in_float32_whatever_the_processor_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself it computes in bf16 where the processor multiplies it faster, which moves boxes by pixels."""
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    hints, compiled = [], openvino.Core.compile_model

    def noted(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        hints.append(settings["INFERENCE_PRECISION_HINT"])
        return compiled(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", noted)
    write_exported(tmp_path / "cells.xml", CELLS.build(), info_of(CELLS), "openvino", "fp32", {})
    session = OpenVinoSession(tmp_path / "cells.xml")
    assert session.opened.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    layer, buffer = torch.nn.Linear(2, 2), io.BytesIO()
    torch.onnx.export(layer, (torch.zeros(1, 2),), buffer, dynamo=False)
    answer = session.opened_graph(buffer.getvalue())
    torch.testing.assert_close(answer([torch.ones(1, 2)])[0], layer(torch.ones(1, 2)).detach())
    assert hints and set(hints) == {"f32"}
