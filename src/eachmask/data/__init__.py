"""Data: disk -> Dataset -> Sample(image, targets) and back: one format per file, reading and writing together.

    import eachmask

    data = eachmask.data.read("my-photos")
    sample = data.splits["train"][0]

Names come in when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eachmask.data.builder import DatasetBuilder
    from eachmask.data.dataset import Dataset
    from eachmask.data.problems import Problem
    from eachmask.data.reading import read
    from eachmask.data.sample import Sample
    from eachmask.data.samples import Samples
    from eachmask.data.split import Split

__all__ = ["Dataset", "DatasetBuilder", "Problem", "Sample", "Samples", "Split", "read"]

_HOMES = {
    "Dataset": "dataset",
    "DatasetBuilder": "builder",
    "Problem": "problems",
    "Sample": "sample",
    "Samples": "samples",
    "Split": "split",
    "read": "reading",
}
"""Name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
