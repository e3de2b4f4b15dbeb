"""The front door: what it offers, that editors know the same names, and that it opens fast."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import eachmask
from eachmask import models

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "eachmask"
NAMES = {
    "Category", "DecodeOptions", "Instances", "Masks", "Predictor", "Preprocess", "RLE", "UserError", "backbones",
    "batch", "data", "draw", "evaluate", "export", "evaluation", "inference", "load", "metrics", "models", "ops",
    "recipes", "structures", "tasks", "train", "training", "weights",
}  # fmt: skip
"""A name that leaves this set breaks somebody's program."""


def test_public_names() -> None:
    assert set(dir(eachmask)) == NAMES | {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_there(name: str) -> None:
    value = getattr(eachmask, name)
    assert inspect.ismodule(value) or value.__doc__


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nuclei'"):
        _ = eachmask.nuclei  # type: ignore[attr-defined]


def test_stub_says_the_same() -> None:
    tree = ast.parse((ROOT / "src/eachmask/__init__.pyi").read_text())
    stub = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert stub == NAMES


@pytest.mark.parametrize("room", ["structures"])
def test_rooms_export_what_they_say(room: str) -> None:
    module = getattr(eachmask, room)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", sorted(models.VARIANTS))
def test_every_variant_is_a_function(name: str) -> None:
    function = getattr(models, name)
    assert function.__name__ == name and function.__doc__
    assert "num_classes" in inspect.signature(function).parameters
    assert models.variant(name) is function


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(eachmask.UserError, match="mask_rcnn_r50_fpn") as caught:
        models.variant("mask_rcn_r50_fpn")
    assert str(caught.value).count(",") == 1, "three, not all"
    with pytest.raises(AttributeError):
        _ = models.mask_rcn


def in_a_fresh_process(code: str) -> dict[str, object]:
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    result: dict[str, object] = json.loads(printed)
    return result


def test_import_is_light() -> None:
    """The promise is 0.3 s; on a busy machine only a much longer time means that something heavy came in."""
    found = in_a_fresh_process(
        "import json, sys, time; start = time.perf_counter(); import eachmask; "
        "print(json.dumps({'seconds': time.perf_counter() - start, 'heavy': sorted("
        "{'torch', 'numpy', 'cv2', 'PIL', 'timm', 'rich', 'tyro', 'skimage', 'scipy'} & set(sys.modules))}))"
    )
    assert found["heavy"] == []
    assert isinstance(found["seconds"], float) and found["seconds"] < 1.0


def test_rooms_open_when_they_are_used() -> None:
    """``import eachmask`` is enough to reach any module of any room."""
    found = in_a_fresh_process(
        "import json, eachmask; print(json.dumps({'nms': eachmask.ops.nms.nms.__name__, "
        "'ap': eachmask.metrics.coco_ap.coco_ap.__name__, 'coco': eachmask.weights.from_mmdet.solo.__name__, "
        "'paper': eachmask.models.instance.solo.__name__}))"
    )
    assert found == {
        "nms": "nms",
        "ap": "coco_ap",
        "coco": "eachmask.weights.from_mmdet.solo",
        "paper": "eachmask.models.instance.solo",
    }


@pytest.mark.parametrize("folder", sorted(path.parent for path in SOURCE.rglob("__init__.py")), ids=lambda p: p.name)
def test_rooms_list_their_modules(folder: Path) -> None:
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    names = {name for name in names if not name.startswith("_")}
    room = import_module(".".join(("eachmask", *folder.relative_to(SOURCE).parts)))
    if room.__name__ not in ("eachmask", "eachmask.cli", "eachmask.structures", "eachmask.backbones.fuse"):
        assert names <= set(dir(room)), names - set(dir(room))
    with pytest.raises(AttributeError, match="no attribute 'nuclear'"):
        _ = room.nuclear


def test_looking_does_not_load_torch() -> None:
    found = in_a_fresh_process(
        "import json, sys, eachmask; dir(eachmask); print(json.dumps({'torch': 'torch' in sys.modules}))"
    )
    assert found == {"torch": False}


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project and project["dynamic"] == ["version"]
    assert eachmask.__version__.count(".") == 2
