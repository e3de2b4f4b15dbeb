"""Recordings of dense systems: the helper that comes with them, and inputs that are made instead of stored."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from parity.recorded import FOLDER, deterministic


@lru_cache(maxsize=1)
def dense() -> Any:
    """The recordings' own helper module of dense systems."""
    sys.modules.setdefault("deterministic", deterministic())
    spec = importlib.util.spec_from_file_location("deterministic_dense", FOLDER / "deterministic_dense.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_dense(stem: str) -> Any:
    """The fixture (``deterministic_dense.DenseFixture``) of a stem."""
    return dense().DenseFixture(stem)


def made(fixture: Any, name: str, to_the_bit: bool = True) -> np.ndarray:
    """An input that the recording's own call makes; names of earlier ones may stand in the call.

    Sines and hypotenuses differ in their last bit from one machine to another: what is made of them need not be equal.
    """
    said = fixture.manifest["made"][name]
    call = said["how"].removeprefix("deterministic_dense.")
    for other in sorted(fixture.manifest["made"], key=len, reverse=True):
        if other != name and re.search(rf"\b{re.escape(other)}\b", call):
            call = re.sub(rf"\b{re.escape(other)}\b", "given", call)
            values = {"given": made(fixture, other, to_the_bit)}
            break
    else:
        values = {}
    result: np.ndarray = eval(f"helper.{call}", {"helper": dense(), **values})
    assert not to_the_bit or dense().digest(result) == said["sha256"], f"{name} differs from the recorded one"
    return result
