"""VIA (VGG Image Annotator 1 to 3): one file of regions, ``via_region_data.json``, its CSV, or a project file.

Read are polygons, rectangles, circles and ellipses; what has no area is told and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.classes_file import write_categories
from eachmask.data.formats.drawn import (
    BRIDGED,
    BROKEN,
    Drawing,
    Entry,
    beginning,
    data_of,
    drawings_in,
    ellipse,
    image_named,
    rings_to_write,
)
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import corners
from eachmask.data.formats.via_entries import MARKS, entries_of
from eachmask.data.images.files import copy_image, files_below
from eachmask.data.problems import NoAreaError, Problem, unread
from eachmask.data.targets import score_in
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError

_NAMES = ("class", "label", "name", "type", "category")
"""What the attribute is called that is the class."""
_OURS = ("crowd", "score")


def read_via(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read every VIA file of a folder, or one; a region's class is its attribute ``class``, ``label``, ``name``,
    ``type`` or ``category``, else the first.

    Raises:
        UserError: no file holds regions.
    """
    files = _files(source)
    if not files:
        raise UserError(f"{source} holds no VIA file: export the annotations as JSON")
    folder, problems = source if source.is_dir() else source.parent, list[Problem]()
    known = ImageFolder(images or folder)

    def entries(file: Path) -> Iterator[Entry]:
        found = list(entries_of(file))
        key, others = _key_of_class(found)
        if others:
            what = f"a region's class is its attribute {key!r}, and not {' or '.join(map(repr, others))}"
            problems.append(Problem(str(file), "", what, "call that of the classes 'class'", "category", "note"))
        for entry in found:
            name, regions = str(entry.get("filename")), entry.get("regions") or []
            draw = partial(_add_regions, regions=regions, key=key, name=name, problems=problems)
            place = (file.parent.relative_to(folder) / name).as_posix() if "/" not in name else name
            yield image_named(place, known, file.parent), name, draw

    return data_of(folder, drawings_in(files, entries, problems, progress), problems, images)


def write_via(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/via_region_data.json beside the images; the attribute is called ``class``."""
    contents: dict[Path, dict[str, Any]] = {}
    for split, image in progress("writing", list(data.images())):
        place = target / split / image.name
        file = place if copy_image(image, place) else image.path
        size = file.stat().st_size if file.is_file() else -1
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in ring],
                    "all_points_y": [y for _, y in ring],
                },
                "region_attributes": {"class": name}
                | ({"crowd": "1"} if crowd else {})
                | ({} if score is None else {"score": str(score)}),
            }
            for (name, crowd, ring), score in zip(rings_to_write(image), image.scores, strict=True)
        ]
        contents.setdefault(place.parent, {})[f"{place.name}{size}"] = {
            "filename": place.name, "size": size, "regions": regions, "file_attributes": {},
        }  # fmt: skip
    for folder, content in contents.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "via_region_data.json").write_text(json.dumps(content), encoding="utf-8")
    write_categories(target, data)
    return [BRIDGED]


def _add_regions(page: Drawing, regions: Any, key: str, name: str, problems: list[Problem]) -> None:
    for number, region in enumerate(regions.values() if isinstance(regions, dict) else regions, start=1):
        where = f"{name}, region {number}"
        try:
            attributes = region.get("region_attributes") or {}
            crowd = attributes.get("crowd") == "1"
            shape, score = _segmentation(region["shape_attributes"]), score_in(attributes)
            names = _classes_of(attributes, key)
            if len(names) != 1:
                what = "it has several classes, and is of the first" if names else "it has no class: it is an object"
                problems.append(Problem(str(page.file), where, what, "choose one", "left out", "note"))
            page.add(shape, (*names, "object")[0], where, crowd, score)
        except BROKEN as error:
            problems.append(unread(page.file, where, error))


def _key_of_class(entries: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """Which attribute of regions is their class, and the others."""
    keys: dict[str, None] = {}
    for entry in entries:
        regions = entry.get("regions") or []
        for region in regions.values() if isinstance(regions, dict) else regions:
            known = region.get("region_attributes") if isinstance(region, dict) else None
            keys |= dict.fromkeys(known if isinstance(known, dict) else ())
    names = [key for key in keys if key not in _OURS]
    best = min(names, key=lambda key: _NAMES.index(key.casefold()) if key.casefold() in _NAMES else 9, default="")
    return best, [key for key in names if key != best]


def _classes_of(attributes: Any, key: str) -> list[str]:
    """The value of that attribute, else of the first that has one; of checkboxes, ``{"nut": true}``, those that are
    set."""
    known = attributes or {}
    for value in (known.get(key, ""), *(known[own] for own in known if own not in _OURS)):
        values = [name for name, chosen in value.items() if chosen] if isinstance(value, dict) else [value]
        named = [str(own).strip() for own in values if str(own).strip()]
        if named:
            return named
    return []


def _segmentation(shape: dict[str, Any]) -> list[list[float]]:
    kind = shape["name"]
    if kind == "polygon":
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        if len(xs) != len(ys):
            raise ValueError(f"it has {len(xs)} x and {len(ys)} y")
        return [[float(v) for pair in zip(xs, ys, strict=True) for v in pair]]
    if kind == "rect":
        return [corners([float(shape[key]) for key in ("x", "y", "width", "height")])]
    if kind == "circle":
        return ellipse(float(shape["cx"]), float(shape["cy"]), float(shape["r"]), float(shape["r"]))
    if kind == "ellipse":
        turn = float(shape.get("theta") or 0) * 180 / 3.141592653589793
        x, y, rx, ry = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, rx, ry, turn)
    raise NoAreaError(kind)


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() else files_below(source, "*.json")[:200] + files_below(source, "*.csv")[:200]
    return [path for path in found if path.suffix.lower() in (".json", ".csv") and _has_regions(path)]


def _has_regions(path: Path) -> bool:
    text = beginning(path)
    return any(mark in text for mark in MARKS)


FORMAT = Format(
    "via",
    lambda source: bool(_files(source)),
    "a JSON or CSV file of VIA's regions",
    read_via,
    write_via,
    takes_images=True,
)
