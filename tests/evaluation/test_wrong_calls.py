"""Calls from Python with something of another type: a sentence that says what to give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_sets import coco, image

import eachmask
from eachmask import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image(tmp_path / "a.png")
    coco(tmp_path / "instances_val.json")
    (tmp_path / "r.json").write_text("[]")
    return tmp_path


@pytest.mark.parametrize("model", [None, 3, np.int64(3), b"r.json", {"a": 1}])
def test_no_model_and_no_predictions(folder: Path, model: Any) -> None:
    with pytest.raises(UserError, match="a model or its predictions are needed"):
        eachmask.evaluate(model, folder)
    with open(folder / "r.json") as file, pytest.raises(UserError, match="not TextIOWrapper"):
        eachmask.evaluate(file, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[1], [None], [{"boxes": []}]])
def test_values_that_are_no_predictions(folder: Path, values: Any) -> None:
    with pytest.raises(UserError, match="a prediction must be Instances"):
        eachmask.evaluate(values, folder)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"score": "0.5"}, "score threshold must be a number, not '0.5'"),
        ({"resamples": "3"}, "number of resamples must be a whole number"),
        ({"resamples": 2.5}, "number of resamples must be a whole number"),
        ({"seed": "1"}, "seed must be a whole number"),
        ({"gallery": None}, "number of images shown must be a whole number, not nothing"),
        ({"boundary": "no"}, "boundary must be True or False"),
        ({"out": 3}, "folder out must be a path"),
        ({"images": 3}, "folder of images must be a path"),
        ({"compare": 3}, "file to compare with must be a path"),
        ({"task": "semantic"}, "task must be one of eachmask.tasks"),
    ],
)
def test_wishes_of_another_type(folder: Path, wish: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        eachmask.evaluate(folder / "r.json", folder, **wish)


def test_paths_may_be_text(folder: Path) -> None:
    found = eachmask.evaluate(
        str(folder / "r.json"), folder / "instances_val.json", images=str(folder), compare=str(folder / "r.json"),
        resamples=0, boundary=False,
    )  # fmt: skip
    assert found.value("ap") == 0


def test_reading_with_something_else(folder: Path) -> None:
    with pytest.raises(UserError, match="folder of images must be a path, not 3"):
        eachmask.data.read(folder, images=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="target must be a class"):
        eachmask.data.read(folder, target="SemanticMap")  # type: ignore[arg-type]
