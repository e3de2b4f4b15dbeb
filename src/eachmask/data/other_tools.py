"""Exports of tools whose own format is not read: whose they are, and what to take instead of guessing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_COCO = "export COCO there"
_FIFTYONE = "FiftyOne reads it and exports COCO (COCODetectionDataset)"
_BOXES = "it has boxes alone; export COCO or YOLO, which hold outlines"


class Tool(NamedTuple):
    """How its files are known, and what to do."""

    name: str
    suffixes: str
    marks: str
    """Regular expressions with blanks between them; a file that begins so has them all."""
    remedy: str


TOOLS = (
    Tool("SuperAnnotate", ".json", r'"instances" "className"', f"{_COCO} (export_annotation of its Python package)"),
    Tool("Supervisely", ".json", r'"classTitle" "geometryType"', f"{_COCO} (its app Export to COCO)"),
    Tool("V7 Darwin", ".json", r'"slot_names"|darwin_json', "darwin convert coco makes COCO of it"),
    Tool("Labelbox", ".json .ndjson", r'"data_row"|"DataRow.ID"', "FiftyOne makes COCO of it (its utils.labelbox)"),
    Tool("Encord", ".json", r'"featureHash"|"objectHash"', _COCO),
    Tool("Hasty", ".json", r'"export_format_version" "label_classes"', _COCO),
    Tool("Segments.ai", ".json", r'"segmentation_bitmap"|"label_status"', "its Python package exports COCO"),
    Tool("CreateML", ".json", r'"coordinates" "label" "image"', _BOXES),
    Tool("FiftyOne", ".json", r'"_cls"', "export it as COCODetectionDataset"),
    Tool("FiftyOne", ".json", r'"bounding_box" "labels" "classes"', "export it as COCODetectionDataset"),
    Tool("ISAT", ".json", r'"ISAT" "objects"', "ISAT converts it to COCO"),
    Tool("Label Studio's videos", ".json", r'"videorectangle"|"timelinelabels"', "annotate frames as images instead"),
    Tool("VIA's videos", ".json", r'"data_format_version":\s*"3 "fname"', "annotate frames as images instead"),
    Tool("Label Studio's CSV", ".csv .tsv", r"original_width annotation|annotator|lead_time", "export JSON there"),
    Tool("a backup of CVAT", ".json", r'"shapes" "tracks" "tags"', "export the task as CVAT for images 1.1"),
    Tool("run lengths as of Kaggle", ".csv", r"(?i)encodedpixels|image_?id[,;].*rle", "paint them into label-maps"),
    Tool("Open Images", ".csv", r"ImageID LabelName", _FIFTYONE),
    Tool("TensorFlow's or RetinaNet's CSV", ".csv", r"filename[,;] xmin", _BOXES),
    Tool("Cellpose's outlines", ".txt", r"\A\d+(,\d+){5,}\s", "save x_cp_masks.png or x_seg.npy there, which are read"),
    Tool("KITTI", ".txt", r"(?m)^[A-Za-z]+\s+(-?[\d.]+\s+){13,14}-?[\d.]+\s*$", _FIFTYONE),
)
_PACKED = {
    ".gz": "it is compressed: unpack it (gunzip)",
    ".zip": "it is an archive: unpack it",
    ".7z": "it is an archive: unpack it",
    ".rar": "it is an archive: unpack it",
    ".tfrecord": f"it is TensorFlow's: {_COCO}",
    ".parquet": "eachmask predict looks into it; annotations are not read from it",
}
"""What is known by its name."""
LOOKED_AT = tuple(dict.fromkeys([suffix for tool in TOOLS for suffix in tool.suffixes.split()] + list(_PACKED)))
"""Suffixes of all that is known."""


def tool_of(files: Iterable[tuple[Path, bytes]]) -> str:
    """Which tool wrote the first file that is known, and the nearest way; "" where none is.

    Args:
        files: with what they begin with.
    """
    for path, text in files:
        for tool in TOOLS:
            if path.suffix.lower() in tool.suffixes.split() and _has_all(text, tool.marks):
                return f"{path} is {tool.name}, which is not read: {tool.remedy}"
        if path.suffix.lower() in _PACKED:
            return f"{path} is not read: {_PACKED[path.suffix.lower()]}"
    return ""


def _has_all(text: bytes, marks: str) -> bool:
    return all(re.search(mark.encode(), text) for mark in marks.split(" "))
