"""Recipes: functions that return a complete training recipe, one file per bundled model or system."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from eachmask.structures import UserError
from eachmask.structures.errors import nearest
from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)

if TYPE_CHECKING:
    from eachmask.training.recipe import Recipe

RECIPES = {
    "clicks": "eachmask.recipes.clicks",
    "mattes": "eachmask.recipes.mattes",
    "memory": "eachmask.recipes.memory",
    "nuclei": "eachmask.recipes.nuclei",
    "objects": "eachmask.recipes.objects",
}
"""Recipe function name -> the module it lives in."""


def recipe(name: str) -> Callable[[], Recipe]:
    """The recipe function of that name, or a custom one, ``my.py:function``.

    Raises:
        UserError: there is no such recipe, file or function.
    """
    if ":" in name:
        return _from_file(*name.rsplit(":", 1))
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}: choose {nearest(name, RECIPES)}, or give my.py:function")
    function: Callable[[], Recipe] = getattr(importlib.import_module(RECIPES[name]), name)
    return function


def _from_file(file: str, function: str) -> Callable[[], Recipe]:
    path = Path(file)
    if not path.is_file():
        raise UserError(f"the recipe file {file} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # worker processes and dataclasses look it up by name
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise UserError(f"{file} has no function {function}")
    found: Callable[[], Recipe] = getattr(module, function)
    return found
