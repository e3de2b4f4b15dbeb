"""Headers that anybody may have written: each is loaded, or refused in one sentence that names file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from eachmask.inference.load import load
from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.file import HEADER, read_info, save_model
from eachmask.weights.header import ModelInfo
from eachmask.weights.schema import Schema, SchemaError

INFO = ModelInfo(
    variant="mask_rcnn_lite0_fpn",
    preprocess=Preprocess(short_side=64, long_side=64),
    categories=(Category(1, "cell"), Category(2, "bead")),
    decode={"score_threshold": 0.2},
    tile=256,
)
NAN, INFINITY = float("nan"), float("inf")
WRONG: list[tuple[str, Any]] = [
    *(("tile", value) for value in (1, -5, 0, "256", 256.5, NAN, [256], {}, True, 1 << 40)),
    *(("variant", value) for value in (None, 3, [], {}, True)),
    *(("preprocess", value) for value in (None, 3, [], "range")),
    *(("preprocess.mean", value) for value in (None, 0.5, [0.5, 0.5], [0.5, 0.5, "a"], [NAN] * 3, [0.1] * 4, {})),
    *(("preprocess.std", value) for value in ([0, 0, 0], [-1, 1, 1], [INFINITY, 1, 1])),
    *(("preprocess.short_side", value) for value in (-800, 0, "800", [800], 1e99, 12.5, False)),
    *(("preprocess.long_side", value) for value in (-1, 0, {}, NAN)),
    *(("preprocess.fixed_size", value) for value in ([0, 5], [5], 5, [5, "5"], [-5, 5])),
    *(("preprocess.magnification", value) for value in (0, -1, NAN, "2", None)),
    *(("preprocess.divisor", value) for value in (0, -32, 1.5, None, [32])),
    *(("preprocess.contrast", value) for value in ("none", None, 1, [])),
    *(("preprocess.channels", value) for value in ("rbg", None, 0)),
    *(("categories", value) for value in (None, 2, "cell", [1], ["cell"], [{}], {"cell": 1}, [{"id": 1}])),
    *(("categories", [{"id": i, "name": n}]) for i, n in (("1", "a"), (1.5, "a"), (1, 2), (None, "a"), (1, None))),
    *(("categories", [{"id": 1, "name": "a", "keypoints": k}]) for k in ("nose", [1], 5, {"nose": 1})),
    *(("categories", [{"id": 1, "name": "a", "skeleton": s}]) for s in ([[0]], [0, 1], "0-1", [[-1, 0]], [["a", 0]])),
    *(("license", value) for value in (None, 3, ["MIT"])),
    *(("config", value) for value in (None, [], "score_threshold", 5)),
    *(("training", value) for value in (None, [], 3)),
    *(("scores", value) for value in (None, [0.5], 0.5)),
    *(("decode", value) for value in (None, [], 0.5)),
    *(("decode.score_threshold", value) for value in ("0.5", 2, -0.1, NAN, [0.5], True)),
    *(("decode.max_detections", value) for value in (0, -1, 1.5, "9", NAN)),
    *(("decode.with_masks", value) for value in (1, "yes", None)),
    *(("decode.paste", value) for value in ("exact", None, 1)),
    *(("crop_classifier", value) for value in (3, [], "yes", {})),
    *(("crop_classifier", {"names": n, "labels": [0]}) for n in (1, "cat", [1], None)),
    *(("name", value) for value in (None, 1, [])),
    *(("card", value) for value in (None, 1, ["#"])),
]
WRONG_SETTINGS: list[tuple[str, Any]] = [
    ("no_such_setting", 1),
    ("score_threshold", "high"),
    ("score_threshold", None),
    ("score_threshold", [0.5]),
    ("max_detections", 1.5),
    ("max_detections", {}),
    ("nms_threshold", NAN),
    ("num_classes", 3),
]


def changed(field: str, value: Any) -> dict[str, Any]:
    """The header with another value in one dotted field."""
    header: dict[str, Any] = json.loads(INFO.to_json())
    part = header
    *above, last = field.split(".")
    for name in above:
        part = part[name]
    part[last] = value
    return header


def written(folder: Path, header: object) -> Path:
    path = folder / "strange.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={HEADER: json.dumps(header)})
    return path


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_one_sentence(field: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path, changed(field, value))
    with pytest.raises(UserError) as caught:
        load(path)
    said = str(caught.value)
    assert str(path) in said and field in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_a_wrong_setting_of_the_variant_is_one_sentence(name: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path, changed(f"config.{name}", value))
    with pytest.raises(UserError) as caught:
        load(path)
    said = str(caught.value)
    assert str(path) in said and name in said and "\n" not in said


@pytest.mark.parametrize("field", ["variant", "categories.id"])
def test_what_cannot_be_left_out(field: str, tmp_path: Path) -> None:
    header = changed("categories", [{"name": "cell"}]) if "." in field else changed("tile", None)
    header.pop(field, None)
    with pytest.raises(UserError, match=rf"strange\.safetensors.*{field[-2:]} is missing"):
        read_info(written(tmp_path, header))


@pytest.mark.parametrize("header", [3, [], "text", None, {"format": "2"}, {"format": 1, "config": 3}, {"naming": 3}])
def test_what_is_no_header(header: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"strange\.safetensors"):
        read_info(written(tmp_path, header))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"tile": ' + "1" * 5_000 + "}"])
def test_what_is_no_json(text: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "strange.safetensors", metadata={HEADER: text})
    with pytest.raises(UserError, match=r"strange\.safetensors cannot be used, for it is no JSON"):
        read_info(tmp_path / "strange.safetensors")


def test_a_model_without_categories_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no categories"):
        load(written(tmp_path, changed("categories", [])))


def test_undefined_measures_are_kept_as_such(tmp_path: Path) -> None:
    info = read_info(written(tmp_path, changed("scores", {"val mask AP": 0.5, "val keypoint AP": NAN})))
    assert info.scores == {"val mask AP": 0.5, "val keypoint AP": None}


def test_lists_become_tuples_all_the_way_down() -> None:
    assert Schema().read(tuple[tuple[float, ...], ...], [[1, 2.5], []]) == ((1.0, 2.5), ())
    with pytest.raises(SchemaError, match=r"a\[\]\[\] must be a number, not 'x'"):
        Schema().read(tuple[tuple[float, ...], ...], [[1], ["x"]], "a")


def test_a_right_header_is_itself(tmp_path: Path) -> None:
    assert read_info(save_model(tmp_path / "m.safetensors", torch.nn.Linear(1, 1), INFO)) == INFO
