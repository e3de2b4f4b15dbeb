"""Rooms whose modules come in when first used, so that ``import eachmask`` stays cheap and reaches everything."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any


def lazy_room(
    room: str, folders: Iterable[str], names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

        __getattr__, __dir__ = lazy_room(__name__, __path__)

    Args:
        room: the package's name.
        folders: its ``__path__``.
        names: public names of its own -> the module below it that defines them.

    >>> import eachmask.ops
    >>> find, names = lazy_room("eachmask.ops", eachmask.ops.__path__)
    >>> find("nms").__name__, "nms" in names()
    ('eachmask.ops.nms', True)
    """
    homes = dict(names or {})

    def modules() -> list[str]:
        return [module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_")]

    def find(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{room}.{homes[name]}"), name)
        if not name.startswith("_") and name in modules():
            module: ModuleType = importlib.import_module(f"{room}.{name}")
            return module
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return find, lambda: sorted({*homes, *modules()})
