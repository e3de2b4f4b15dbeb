"""Exports of tools whose own format is not read: whose they are, and what to take instead of guessing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_COCO = "export COCO there"
_FIFTYONE = "FiftyOne reads it and exports COCO (COCODetectionDataset)"
_BOXES = "it has boxes alone; export COCO or YOLO, which hold outlines"
_POINTS = "its points are pixels: write them as COCO's segmentation"
_ROI_MANAGER = "open them in ImageJ and save them from its ROI Manager as NAME_rois.zip, which is read"
_GEOJSON = "export its objects as GeoJSON beside the images, which is read"
_MAPS = "save the objects' numbers as PNG of 16 bits, beside images as label-maps"


class Tool(NamedTuple):
    """How its files are known, and what to do."""

    name: str
    suffixes: str
    marks: str
    """Regular expressions with blanks between them; a file that begins so has them all."""
    remedy: str


_TEXTS = ".json .xml .csv .txt"

TOOLS = (
    Tool("a pointer of Git LFS", _TEXTS, r"\Aversion\shttps://git-lfs", "git lfs pull fetches the file"),
    Tool("a web page", _TEXTS, r"(?i)\A\s*<(!doctype\shtml|html)", "fetch the file again"),
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
    Tool("Dataloop", ".json", r'"datasetId" "coordinates"', f"{_COCO} (its converters)"),
    Tool("Kili", ".json", r'"jsonResponse"', f"{_COCO} (export_labels of its Python package)"),
    Tool("Segment Anything", ".json", r'"predicted_iou"|"stability_score"', "join its annotations into one COCO file"),
    Tool("Scale's tasks", ".json", r'"task_id" "attachment"', _POINTS),
    Tool("VoTT", ".json", r'"assets" "asset" "regions"', _POINTS),
    Tool("BDD100K", ".json", r'"poly2d"', "its own bdd100k.label.to_coco makes COCO of it"),
    Tool("Mapillary Vistas", ".json", r'"polygon" "(object|void|nature)--', "its folder panoptic is read"),
    Tool("YouTube-VIS", ".json", r'"videos" "segmentations"', "write each frame as an image of a COCO file"),
    Tool("Ground Truth of SageMaker", ".manifest .jsonl", r'"source-ref"', "take its colored masks as color-maps"),
    Tool("Azure's labels", ".jsonl", r'"image_url" "label"', _COCO),
    Tool("Prodigy", ".jsonl", r'"_task_hash"', _POINTS),
    Tool("made for language models", ".jsonl", r'"prefix" "suffix"', _COCO),
    Tool("metadata of Hugging Face", ".jsonl", r'"file_name"', "write its objects into a COCO file"),
    Tool("CrowdHuman's", ".odgt", r'"gtboxes"', _BOXES),
    Tool("Aperio ImageScope's", ".xml", r"<Regions?\b <Vert", _POINTS),
    Tool("ASAP's", ".xml", r"<ASAP_Annotations", _POINTS),
    Tool("OME's regions", ".xml", r"<OME\b <ROI\b", _ROI_MANAGER),
    Tool("OMERO's table of regions", ".csv", r"roi_id shape_id", _ROI_MANAGER),
    Tool("ilastik's table", ".csv", r"labelimage_oid", "export its Object Identities, to be read as label-maps"),
    Tool("makesense.ai's CSV", ".csv", r"\A[^,\n]+(,\d+){4},[^,\n]+\.\w+,\d+,\d+\s", _BOXES),
    Tool("DOTA", ".txt", r"(?m)^(-?[\d.]+[^\S\n]+){8}[A-Za-z][\w-]*([^\S\n]+\d)?\s*$", "Ultralytics makes YOLO of it"),
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
    ".tar": "it is an archive: unpack it",
    ".tgz": "it is an archive: unpack it",
    ".tfrecord": f"it is TensorFlow's: {_COCO}",
    ".qpproj": f"it is a project of QuPath: {_GEOJSON}",
    ".qpdata": f"it is QuPath's: {_GEOJSON}",
    ".ilp": "it is a project of ilastik: export its Object Identities, to be read as label-maps",
    ".parquet": "eachmask predict looks into it; annotations are not read from it",
}
"""What is known by its name."""
_ARRAYS = {
    **dict.fromkeys((".npy", ".npz"), f"it holds arrays of NumPy: {_MAPS}"),
    **dict.fromkeys((".h5", ".hdf5"), f"it is HDF5: {_MAPS}"),
    ".zarr": f"it is Zarr: {_MAPS}",
    ".mat": f"it is MATLAB's: {_MAPS}",
    **dict.fromkeys((".pkl", ".pickle"), "a pickle may run anything: write a COCO file from it"),
}
"""What may hold objects, and may hold anything."""
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


def arrays_of(files: Iterable[Path]) -> str:
    """What to do with the first file of arrays; "" where there is none."""
    found = next((path for path in files if path.suffix.lower() in _ARRAYS), None)
    return f"{found} is not read: {_ARRAYS[found.suffix.lower()]}" if found is not None else ""


def _has_all(text: bytes, marks: str) -> bool:
    return all(re.search(mark.encode(), text) for mark in marks.split(" "))
