"""eachmask: one mask for each object.

    import eachmask

    predictor = eachmask.load("nuclei")
    instances = predictor.predict("cells.png")

Importing this is cheap: torch and the rest come in when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Category": "eachmask.structures",
    "DecodeOptions": "eachmask.structures",
    "Instances": "eachmask.structures",
    "Masks": "eachmask.structures",
    "Predictor": "eachmask.inference.predictor",
    "Preprocess": "eachmask.structures",
    "RLE": "eachmask.structures",
    "UserError": "eachmask.structures",
    "evaluate": "eachmask.evaluation.measure",
    "export": "eachmask.exporting.export",
    "load": "eachmask.inference.load",
    "train": "eachmask.recipes.train",
}
"""Public name -> the module that defines it."""
_ROOMS = (
    "backbones", "batch", "data", "draw", "evaluation", "inference", "metrics", "models", "ops", "recipes",
    "structures", "tasks", "training", "weights",
)  # fmt: skip

__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"eachmask.{name}")
    raise AttributeError(f"module 'eachmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
