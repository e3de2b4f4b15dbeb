"""What the records and files of several tasks have in common: counts of an image, and the head of a COCO file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from eachmask.files.journal import compact_json
from eachmask.tasks.task import About, Recorded

Records = Callable[[], Iterable[Recorded]]
"""The images of a run, as often as they are asked for."""


def mean_score(scores: Sequence[float]) -> float | None:
    """To four digits; None where there are no scores."""
    return round(float(np.mean(scores)), 4) if scores else None


def class_counts(names: Sequence[str]) -> dict[str, int]:
    """How often each name is there, in the names' order."""
    return {name: names.count(name) for name in sorted(set(names))}


def coco_images(records: Records, about: About) -> Iterator[str]:
    """The beginning of a COCO file, to within its list of images: one image per line."""
    info = {"description": "eachmask predictions", "model": about.name or about.variant, "license": about.license}
    yield f'{{"info":{compact_json(info)},\n"images":['
    for i, image in enumerate(records()):
        header = image.record.header
        row = {"id": image.number, "file_name": image.name, "width": header["width"], "height": header["height"]}
        yield f"{',' if i else ''}\n{compact_json(row)}"
