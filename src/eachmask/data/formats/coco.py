"""COCO instances: data sets read and written (Lin et al., arXiv 1405.0312).

Category ids may have gaps and any order; labels are positions in ``categories``, which keeps the file's order, and are
mapped back on writing.
"""

from __future__ import annotations

from pathlib import Path

from eachmask.data.formats.coco_read import find_coco_files, is_coco, read_coco
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.format import Format


def _looks_like(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".json" and is_coco(source)
    return bool(find_coco_files(source))


FORMAT = Format("coco", _looks_like, "instances_SPLIT.json", read_coco, write_coco_folder, takes_images=True)
