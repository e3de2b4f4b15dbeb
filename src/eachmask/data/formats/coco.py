"""COCO instances: data sets read and written (Lin et al., arXiv 1405.0312).

Category ids may have gaps and any order; labels are positions in ``categories``, which keeps the file's order, and are
mapped back on writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eachmask.data.formats.coco_read import find_coco_files, is_coco, read_coco
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.format import Format
from eachmask.data.sample import Sample
from eachmask.structures import Instances


def _looks_like(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".json" and is_coco(source)
    return bool(find_coco_files(source))


FORMAT = Format("coco", _looks_like, "instances_SPLIT.json", read_coco, write_coco_folder, takes_images=True)


# What evaluation still calls by its old names ---------------------------------------------------------

from eachmask.data.formats.coco_fields import is_crowd, read_json, whole_number  # noqa: E402, F401
from eachmask.data.formats.coco_write import write_coco  # noqa: E402, F401
from eachmask.structures.coco import to_annotations  # noqa: E402, F401


class CocoDataset:
    """One file read strictly."""

    def __init__(self, annotations: str | Path, images: str | Path) -> None:
        self.path, self.folder = Path(annotations), Path(images)
        data = read_coco(self.path, images=self.folder, strict=True)
        (self.split,) = data.splits.values()
        self.categories, self.category_fields = data.categories, data.category_fields
        self.dropped = [f"{p.annotation} covers no pixel" for p in data.problems if p.kind == "empty"]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        return self.split[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.split)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [self._record(i) for i in range(len(self))]

    def _record(self, i: int) -> dict[str, Any]:
        height, width = self.split.image_size(i)
        head = {"id": self.split.image_id(i), "file_name": self.split.file_name(i), "height": height, "width": width}
        return head | self.split.fields(i)

    def image_path(self, index: int) -> Path:
        return self.split.path(index)

    def image(self, index: int) -> NDArray[Any]:
        return self.split.image(index)

    def targets(self, index: int) -> Instances:
        return self.split.stated_targets(index)

    @property
    def nbytes(self) -> int:
        return self.split.nbytes
