"""The examples in docstrings run, and say what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
ROOMS = ("accel", "ops", "structures")
"""Rooms whose examples are run."""
FRONT_DOOR = ("data.reading", "evaluation.measure", "inference.load", "recipes.train")
"""Where the functions of ``import eachmask`` are."""
MODULES = [f"eachmask.{name}" for name in FRONT_DOOR] + sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for room in ROOMS
    for path in (SOURCE / "eachmask" / room).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_the_nouns_have_examples() -> None:
    assert len(MODULES) >= 14 + len(FRONT_DOOR)
