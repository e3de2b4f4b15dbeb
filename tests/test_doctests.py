"""The examples in docstrings run and say what they say; what the rooms of nouns and verbs make public has one."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
ROOMS = ("structures", "ops")
"""Rooms in which every public function, and every public class that does something, has an example."""
FRONT_DOOR = ("data.reading", "evaluation.measure", "exporting.export", "inference.load", "inference.predictor",
              "recipes.train")  # fmt: skip
"""Where the functions of ``import eachmask`` are."""
NEEDS_A_PACKAGE = {"own_colors", "solve_foreground", "to_pandas", "to_supervision"}
"""Functions that need packages which eachmask does not bring."""
FILES = [path for room in ROOMS for path in sorted((SOURCE / "eachmask" / room).glob("*.py"))]
MODULES = [f"eachmask.{name}" for name in FRONT_DOOR] + sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in (SOURCE / "eachmask").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", dict.fromkeys(MODULES))
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_public_has_an_example(path: Path) -> None:
    missing = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and _does_something(node) and not _has_example(node)
    ]
    assert not set(missing) - NEEDS_A_PACKAGE


def _does_something(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """A public function, or a public class with public methods; interfaces and plain records have none to show."""
    if node.name.startswith("_"):
        return False
    if isinstance(node, ast.FunctionDef):
        return True
    bases = {ast.unparse(base) for base in node.bases}
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
    return bool(methods) and "Protocol" not in bases


def _has_example(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(">>> " in text for text in _docstrings(node))


def _docstrings(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    yield ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        yield from (ast.get_docstring(part) or "" for part in node.body if isinstance(part, ast.FunctionDef))
