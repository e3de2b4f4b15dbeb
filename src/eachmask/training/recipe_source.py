"""A recipe as Python text that makes it again: what a run was done with, to be read, changed and run."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from eachmask.training.recipe import Recipe

HEAD = '''"""What this run was trained with. Train again: eachmask train {file}:recipe --data DATA --out RUN"""

'''


def recipe_source(recipe: Recipe, file: str = "recipe.py") -> str:
    """Text of a module with a function ``recipe`` that returns an equal recipe.

    What has no name to import it by (a lambda, a function inside another) is written as its repr in a comment and left
    at its default; the module then says so.
    """
    imports: set[tuple[str, str]] = {(Recipe.__module__, "Recipe")}
    lines = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        text = _expression(value, imports, "        ")
        if text is None:
            lines.append(f"        # {field.name} was {value!r}, which cannot be written down")
        else:
            lines.append(f"        {field.name}={text},")
    by_module: dict[str, list[str]] = {}
    for module, name in sorted(imports):
        by_module.setdefault(module, []).append(name)
    head = "".join(f"from {module} import {', '.join(names)}\n" for module, names in by_module.items())
    fields = "\n".join(lines)
    return f"{HEAD.format(file=file)}{head}\n\ndef recipe() -> Recipe:\n    return Recipe(\n{fields}\n    )\n"


def settings(recipe: Recipe) -> dict[str, str]:
    """Each field as a text that is equal for equal values, to tell one run from another."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {name: _expression(value, set(), "") or type(value).__name__ for name, value in values.items()}


def _expression(value: Any, imports: set[tuple[str, str]], indent: str) -> str | None:
    """A Python expression for the value, or None where there is none."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, tuple | list | dict):
        return _container(value, imports, indent)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _record(value, imports, indent)
    name = getattr(value, "__qualname__", "")
    if (inspect.isfunction(value) or isinstance(value, type)) and name.isidentifier() and value.__module__:
        imports.add((value.__module__, name))
        return name
    return None


def _container(value: Any, imports: set[tuple[str, str]], indent: str) -> str | None:
    if isinstance(value, dict):
        pairs = [(repr(k), _expression(v, imports, indent)) for k, v in value.items()]
        return None if any(v is None for _, v in pairs) else "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
    parts = [_expression(item, imports, indent) for item in value]
    if any(part is None for part in parts):
        return None
    inner = ", ".join(str(part) for part in parts)
    return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(parts) == 1 else f"({inner})"


def _record(value: Any, imports: set[tuple[str, str]], indent: str) -> str | None:
    """A dataclass by the fields that differ from their defaults."""
    if "." in type(value).__qualname__:
        return None
    parts = []
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if field.default is not dataclasses.MISSING and field.default == current:
            continue
        text = _expression(current, imports, indent + "    ")
        if text is None:
            return None
        parts.append(f"{field.name}={text}")
    imports.add((type(value).__module__, type(value).__name__))
    return f"{type(value).__name__}({', '.join(parts)})"
