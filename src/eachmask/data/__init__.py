"""Data: disk -> Dataset -> Sample(image, targets) and back: one format per file, reading and writing together.

    import eachmask

    data = eachmask.data.read("my-photos")
    sample = data.splits["train"][0]

Names come in when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eachmask.structures.lazy import lazy_room

if TYPE_CHECKING:
    from eachmask.data.builder import DatasetBuilder
    from eachmask.data.dataset import Dataset
    from eachmask.data.problems import Problem
    from eachmask.data.reading import read
    from eachmask.data.sample import Sample
    from eachmask.data.samples import Samples
    from eachmask.data.split import Split

__all__ = ["Dataset", "DatasetBuilder", "Problem", "Sample", "Samples", "Split", "read"]

__getattr__, __dir__ = lazy_room(
    __name__,
    __path__,
    {
        "Dataset": "dataset",
        "DatasetBuilder": "builder",
        "Problem": "problems",
        "Sample": "sample",
        "Samples": "samples",
        "Split": "split",
        "read": "reading",
    },
)
