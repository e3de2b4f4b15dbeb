"""What VIA's files say of each image, as VIA 2 writes it: also a CSV export, and a project of VIA 3."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eachmask.data.formats.coco_fields import parsed
from eachmask.files.text import read_text

MARKS = (b'"shape_attributes"', b'"vid_list"', b"region_shape_attributes")
"""One of these is in the beginning of every file."""
_RECTANGLE, _CIRCLE, _ELLIPSE, _POLYGON = 2, 3, 4, 7
"""The kinds of shapes in VIA 3, which stand before their numbers."""
_NAMES = {
    _RECTANGLE: ("rect", ("x", "y", "width", "height")),
    _CIRCLE: ("circle", ("cx", "cy", "r")),
    _ELLIPSE: ("ellipse", ("cx", "cy", "rx", "ry")),
}


def entries_of(file: Path) -> Iterator[dict[str, Any]]:
    """``{"filename", "regions": [{"shape_attributes", "region_attributes"}]}`` of each image.

    Raises:
        UserError, LookupError, TypeError, ValueError: the file is of no such make.
    """
    if file.suffix.lower() == ".csv":
        yield from _rows(file)
        return
    content = parsed(file)
    if "file" in content and "metadata" in content:
        yield from _of_third(content)
        return
    content = content.get("_via_img_metadata", content)
    yield from (entry for entry in content.values() if isinstance(entry, dict) and "filename" in entry)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """A region a line; an image without regions has a line of its own."""
    images: dict[str, list[dict[str, Any]]] = {}
    for row in csv.DictReader(read_text(file).splitlines()):
        own = images.setdefault(row.get("filename") or row["#filename"], [])
        shape = json.loads(row["region_shape_attributes"] or "{}")
        if shape:
            own.append({"shape_attributes": shape, "region_attributes": json.loads(row["region_attributes"] or "{}")})
    yield from ({"filename": name, "regions": regions} for name, regions in images.items())


def _of_third(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """VIA 3 lists files, views of them and shapes apart from one another."""
    shapes: dict[str, list[dict[str, Any]]] = {}
    for entry in content["metadata"].values():
        if entry["xy"]:
            region = {
                "shape_attributes": _shape(entry["xy"]),
                "region_attributes": _named(entry.get("av") or {}, content.get("attribute") or {}),
            }
            shapes.setdefault(str(entry["vid"]), []).append(region)
    for number, view in content.get("view", {}).items():
        for file in view["fid_list"]:
            yield {"filename": content["file"][str(file)]["fname"], "regions": shapes.get(str(number), [])}


def _shape(values: list[Any]) -> dict[str, Any]:
    kind, numbers = values[0], values[1:]
    if kind == _POLYGON:
        return {"name": "polygon", "all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
    name, keys = _NAMES.get(kind, ("point or line", ()))
    return {"name": name} | dict(zip(keys, numbers, strict=False))


def _named(chosen: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
    """The values of attributes; of a choice the name of what is chosen."""
    named = {}
    for key, value in chosen.items():
        own = attributes.get(key) or {}
        named[str(own.get("aname", key))] = (own.get("options") or {}).get(value, value)
    return named
