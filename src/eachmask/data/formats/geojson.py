"""GeoJSON (RFC 7946): outlines with holes, in pixel coordinates, as QuPath, QGIS and napari read them.

x grows to the right and y downwards, as in the image. Rings run along pixel edges, so the polygons cover
exactly the pixels of the masks; outer rings and holes turn in opposite directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Instances, UserError

Ring = NDArray[Any]
Part = tuple[Ring, list[Ring]]
"""An outer ring and its holes, (K, 2) each."""


def to_geojson(instances: Instances) -> dict[str, Any]:
    """Instances -> FeatureCollection: one feature per object with its class, score and number.

    Raises:
        UserError: there are no masks to outline.
    """
    features = []
    for i, (parts, name, parent) in enumerate(_named_parts(instances)):
        polygons = [[_closed(outer, True), *(_closed(h, False) for h in holes)] for outer, holes in parts]
        properties: dict[str, Any] = {
            "objectType": "annotation",
            "classification": {"name": name},
            "number": i + 1,
        }
        if parent:
            properties["parent"] = parent
        if instances.scores is not None:
            properties["score"] = float(f"{float(instances.scores[i]):.6g}")
            properties["measurements"] = {"score": properties["score"]}  # where QuPath shows it
        feature = {"type": "Feature", "id": i + 1, "geometry": _geometry(polygons), "properties": properties}
        features.append(feature)
    return {"type": "FeatureCollection", "features": features}


def to_polygon_list(instances: Instances) -> list[dict[str, Any]]:
    """Instances -> per object ``{"id", "class", "score", "polygons": [{"outer", "holes"}]}``, JSON-ready.

    Raises:
        UserError: there are no masks to outline.
    """
    entries = []
    for i, (parts, name, parent) in enumerate(_named_parts(instances)):
        entry: dict[str, Any] = {"id": i + 1, "class": name}
        if parent:
            entry["parent"] = parent
        if instances.scores is not None:
            entry["score"] = float(f"{float(instances.scores[i]):.6g}")
        entry["polygons"] = [
            {"outer": _points(outer), "holes": [_points(hole) for hole in holes]} for outer, holes in parts
        ]
        entries.append(entry)
    return entries


def _named_parts(instances: Instances) -> Iterator[tuple[list[Part], str, str]]:
    """Each object's parts, its class and the class above that."""
    return zip(parts_of(instances), instances.label_names, instances.parent_names, strict=True)


def parts_of(instances: Instances) -> list[list[Part]]:
    """Each object's connected parts, every hole with the outer ring it lies in.

    Raises:
        UserError: there are no masks.
    """
    if instances.masks is None:
        raise UserError("outlines need masks, and this model finds boxes only")
    polygons = instances.masks.to_polygons()
    return [_nest(outer, holes) for outer, holes in zip(polygons.outers, polygons.holes, strict=True)]


def _nest(outers: Sequence[Ring], holes: Sequence[Ring]) -> list[Part]:
    """A hole belongs to the smallest outer ring that surrounds it (islands lie in holes)."""
    parts: list[Part] = [(outer, []) for outer in outers]
    by_area = sorted(parts, key=lambda part: abs(_signed_area(part[0])))
    for hole in holes:
        owner = next((part for part in by_area if _surrounds(part[0], _point_within(hole))), by_area[-1])
        owner[1].append(hole)
    return parts


def _point_within(ring: Ring) -> tuple[float, float]:
    """A point strictly inside a ring on the integer lattice: the center of its topmost-leftmost pixel."""
    first = min((float(y), float(x)) for x, y in ring)
    return first[1] + 0.5, first[0] + 0.5


def _surrounds(ring: Ring, point: tuple[float, float]) -> bool:
    """Even-odd rule, by the edges that a ray to the right crosses."""
    x, y = ring[:, 0].astype(float), ring[:, 1].astype(float)
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > point[1]) != (y2 > point[1])
    slope = (x2 - x)[crosses] * (point[1] - y[crosses]) / (y2 - y)[crosses]
    return bool(np.count_nonzero(x[crosses] + slope > point[0]) % 2)


def _signed_area(ring: Ring) -> float:
    x, y = ring[:, 0].astype(float), ring[:, 1].astype(float)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _closed(ring: Ring, outer: bool) -> list[list[float]]:
    """First point repeated at the end; outer rings with positive shoelace area, holes with negative."""
    if (_signed_area(ring) > 0) != outer:
        ring = ring[::-1]
    points = _points(ring)
    return [*points, points[0]]


def _points(ring: Ring) -> list[list[float]]:
    whole = np.rint(ring)
    if np.array_equal(whole, ring):
        return [[int(x), int(y)] for x, y in whole]
    return [[round(float(x), 2), round(float(y), 2)] for x, y in ring]


def _geometry(polygons: list[list[list[list[float]]]]) -> dict[str, Any] | None:
    """None (RFC 7946: unlocated) for an object without pixels."""
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}
