"""QuPath: ``NAME.geojson`` beside each image; a feature's class is its ``classification``, its name otherwise.

Annotations and detections are read, cells by their outline. Coordinates are pixels of the full image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.classes_file import write_categories
from eachmask.data.formats.coco_fields import parsed
from eachmask.data.formats.drawn import Drawing, Entry, beginning, data_of, drawings_in
from eachmask.data.formats.format import Format
from eachmask.data.formats.geojson import to_geojson
from eachmask.data.formats.yolo_write import one_ring
from eachmask.data.images.files import copy_image, files_below, find_image
from eachmask.data.problems import NoAreaError, Problem, unread
from eachmask.data.targets import masks_of, score_in
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import UserError


def read_qupath(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read every GeoJSON file below a folder, or one.

    Raises:
        UserError: there is none.
    """
    files = _files(source)
    if not files:
        raise UserError(f"{source} holds no GeoJSON: export objects from QuPath as .geojson beside their images")
    folder, problems = source if source.is_dir() else source.parent, list[Problem]()
    known = ImageFolder(images or folder)

    def entries(file: Path) -> Iterator[Entry]:
        place = file.relative_to(folder).with_suffix("").as_posix()
        found = _image_of(file) or known.of_stem(place) or known.named(place)
        yield found, f"image {file.stem}", lambda page: _add_features(page, problems)

    return data_of(folder, drawings_in(files, entries, problems, progress), problems, images)


def write_qupath(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/NAME.geojson beside the images."""
    for split, image in progress("writing", list(data.images())):
        copy_image(image, target / split / image.name)
        path = target / split / f"{image.stem}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        targets = image.split.scored_targets(image.index)
        content = to_geojson(replace(targets, masks=masks_of(targets)))
        for feature, crowd in zip(content["features"], image.targets.crowd.tolist(), strict=True):
            feature["properties"] |= {"crowd": True} if crowd else {}
        path.write_text(json.dumps(content), encoding="utf-8")
    write_categories(target, data)
    return ["other programs take crowd regions for objects"]


def _add_features(page: Drawing, problems: list[Problem]) -> None:
    try:
        content = parsed(page.file)
        features = content["features"] if isinstance(content, dict) and "features" in content else content
        features = features if isinstance(features, list) else [features]
    except (UserError, ValueError) as error:
        problems.append(Problem(str(page.file), "", f"no GeoJSON ({error})", "export it anew", "file"))
        return
    if isinstance(content, dict) and content.get("crs"):
        what, remedy = "it says that its coordinates are places on a map (crs)", "they are read as pixels of the image"
        problems.append(Problem(str(page.file), "", what, remedy, "geojson", "warning"))
    for number, feature in enumerate(features, start=1):
        try:
            geometry = feature["geometry"] if feature.get("type", "Feature") == "Feature" else feature
            properties = feature.get("properties") or {}
            name, crowd = _class_of(properties), bool(properties.get("crowd"))
            page.add(_segmentation(geometry), name, f"feature {number}", crowd, _score_of(properties))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problems.append(unread(page.file, f"feature {number}", error))


def _class_of(properties: dict[str, Any]) -> str:
    found = properties.get("classification") or {}
    names = found.get("names") if isinstance(found, dict) else None
    name = ": ".join(map(str, names)) if names else found.get("name") if isinstance(found, dict) else found
    return str(name or "").strip() or "object"


def _score_of(properties: dict[str, Any]) -> float | None:
    """A measurement called score; older versions of QuPath write a list of names and values."""
    found = properties.get("measurements") or {}
    if isinstance(found, list):
        found = {row.get("name"): row.get("value") for row in found if isinstance(row, dict)}
    return score_in({str(key).casefold(): value for key, value in found.items()} if isinstance(found, dict) else {})


def _segmentation(geometry: dict[str, Any]) -> list[list[float]]:
    """Each polygon as one ring, its holes joined by bridges of no width."""
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "GeometryCollection":
        return [ring for part in geometry["geometries"] for ring in _segmentation(part)]
    if kind not in ("Polygon", "MultiPolygon"):
        raise NoAreaError(kind)
    polygons: Sequence[Any] = [coordinates] if kind == "Polygon" else coordinates or []
    return [_bridged(polygon) for polygon in polygons]


def _bridged(polygon: Sequence[Any]) -> list[float]:
    rings = [np.asarray(ring, np.float64)[:, :2] for ring in polygon]
    rings = [ring[:-1] if (ring[0] == ring[-1]).all() else ring for ring in rings]
    ring: list[float] = one_ring(rings[:1], rings[1:]).ravel().tolist()
    return ring


def _image_of(file: Path) -> Path | None:
    """a.geojson, a.tif.geojson or a.ome.geojson -> the image of that name beside it."""
    beside = file.with_suffix("")
    return beside if beside.is_file() else find_image(file.parent, file.stem)


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() else files_below(source, "*.geojson") or files_below(source, "*.json")[:200]
    return [path for path in found if path.suffix.lower() == ".geojson" or _is_geojson(path)]


def _is_geojson(path: Path) -> bool:
    """Older versions of QuPath save the same as ``.json``."""
    text = beginning(path) if path.suffix.lower() == ".json" else b""
    return b'"Feature"' in text and b'"geometry"' in text


FORMAT = Format(
    "qupath",
    lambda source: bool(_files(source)),
    "NAME.geojson beside images",
    read_qupath,
    write_qupath,
    takes_images=True,
)
