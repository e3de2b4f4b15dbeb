"""torchvision and timm, imported when first used and without torch's compiler, until somebody compiles.

On import torchvision asks torch's compiler for a function that answers for devices other than CPUs and NVIDIA's GPUs,
and timm for a decorator of one network. The compiler is then loaded whole, with an algebra system: 150 MB and two
seconds of every command that predicts. In :func:`lazy_dynamo` two empty modules stand in its place. They answer
these two by themselves, and load the compiler as soon as anything else is wanted of them; afterwards they are gone.

Where these two questions are asked differs from version to version, so this is done only with the versions of torch
from :data:`FIRST_TESTED` to :data:`LAST_TESTED`; with any other one the imports are plain ones.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from eachmask.accel import is_on

FIRST_TESTED, LAST_TESTED = (2, 6), (2, 15)
"""Versions of torch, both included."""

COMPILER = "torch._dynamo"
HELPERS = "torch._dynamo.utils"


@cache
def torchvision() -> ModuleType:
    """torchvision; its parts that it does not import by itself can be imported as usual afterwards."""
    with lazy_dynamo():
        return importlib.import_module("torchvision")


@cache
def timm() -> ModuleType:
    """timm, and torchvision, which it imports."""
    with lazy_dynamo():
        return importlib.import_module("timm")


@contextmanager
def lazy_dynamo() -> Iterator[None]:
    """Imports in this block load torch's compiler only where they cannot do without. If it is there, it stays."""
    if COMPILER in sys.modules or not is_on("lazy_dynamo") or not _is_tested():
        yield
        return
    placeholders: dict[str, ModuleType] = {name: _Placeholder(name) for name in (COMPILER, HELPERS)}
    placeholders[COMPILER].disable = _not_compiled  # type: ignore[attr-defined]
    placeholders[HELPERS].is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        _remove_placeholders()


def _is_tested() -> bool:
    import torch

    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    return FIRST_TESTED <= (major, minor) <= LAST_TESTED


class _Placeholder(ModuleType):
    """Hands every other name on to the module that it stands for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    _remove_placeholders()
    return importlib.import_module(name)


def _remove_placeholders() -> None:
    for name in (COMPILER, HELPERS):
        if isinstance(sys.modules.get(name), _Placeholder):
            del sys.modules[name]


def _not_compiled(function: Any = None, recursive: bool = True, **_: Any) -> Any:
    """``torch.compiler.disable``: the function as it is, which a compiler that is never loaded will not compile."""
    return _not_compiled if function is None else function


def _is_compile_supported(device_type: str) -> bool:
    answer: bool = _real(HELPERS).is_compile_supported(device_type)
    return answer
