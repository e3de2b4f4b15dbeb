"""One row of measures per object: the region properties that biologists and quality engineers ask for.

Perimeter, eccentricity and mean intensity are defined as in scikit-image's ``regionprops``; the centroid is
in the package's coordinates, where the center of the first pixel is (0.5, 0.5) (scikit-image: 0).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats.spreadsheet import csv_text
from eachmask.structures import Category, Instances

COLUMNS = (
    "image", "id", "class", "score", "area", "box_x1", "box_y1", "box_x2", "box_y2",
    "centroid_x", "centroid_y", "perimeter", "eccentricity", "mean_intensity",
    "parent", "visible_area",
)  # fmt: skip
"""``id`` counts the objects of an image from 1, as label maps and crops do; lengths are in pixels. ``class`` is
the narrowest name that the model is sure of (cat), ``parent`` the class above it (animal), or nothing.
``visible_area`` is the object's area in a label map: ``area`` without what lies under objects before it."""
UNIT_COLUMNS = ("area_um2", "diameter_um", "perimeter_um")
"""What follows where the size of a pixel is known; ``diameter`` is that of a circle of the object's area."""
_OF_MASKS = ("centroid_x", "centroid_y", "perimeter", "eccentricity", "mean_intensity", "visible_area")

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_NEIGHBORS = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]], np.float32)
_STEP = np.zeros(64)
"""Length of a border pixel by 1 + 2 x (side neighbors) + 10 x (corner neighbors): straight steps count
1, diagonal ones sqrt(2), a step of either kind the mean of both."""
_STEP[[5, 7, 15, 17, 25, 27]] = 1
_STEP[[21, 33]] = math.sqrt(2)
_STEP[[13, 23]] = (1 + math.sqrt(2)) / 2

_BAND = 1 << 22
"""Pixels of the image whose channels are averaged at a time."""


def rows(name: str, instances: Instances, image: NDArray[Any]) -> list[tuple[str | int | float, ...]]:
    """Measure every object.

    Args:
        name: of the image, for the first column.
        image: (H, W, 3); the mean over its channels is the intensity, in the image's own units.

    Returns:
        One tuple per object in the order of ``COLUMNS``. Without masks the six measures of masks are empty
        strings and the area is the box's.

    Raises:
        ValueError: the image has another size than the instances.
    """
    if image.shape[:2] != instances.image_size:
        raise ValueError(f"an image of {image.shape[:2]} for instances on {instances.image_size}")
    boxes = instances.boxes.detach().cpu().double().numpy()
    scores = [""] * len(instances) if instances.scores is None else instances.scores.tolist()
    measures = _measures(instances, image, boxes)
    visible = [""] * len(instances) if instances.masks is None else instances.masks.visible_area().tolist()
    return [
        (name, i + 1, label, _rounded(score, 6), measure[0], *(_rounded(v, 2) for v in box), *measure[1:], parent, seen)
        for i, (label, parent, score, box, measure, seen) in enumerate(
            zip(instances.label_names, instances.parent_names, scores, boxes, measures, visible, strict=True)
        )
    ]


def columns(categories: Iterable[Category], with_masks: bool) -> tuple[str, ...]:
    """Those of ``COLUMNS`` that say something: of masks where there are some, of parents where classes have one."""
    empty = set(() if with_masks else _OF_MASKS)
    if not any(category.parent for category in categories):
        empty.add("parent")
    return tuple(name for name in COLUMNS if name not in empty)


def with_units(text: str, pixel_size: float | None, header: Sequence[str]) -> str:
    """A table's rows with columns in micrometers behind them; they are empty where the size of a pixel is not known.

    Args:
        text: CSV, with or without its header line.
        pixel_size: micrometers per pixel.
        header: names of the table's columns.

    >>> names = ("image", "id", "area", "perimeter")
    >>> with_units("image,id,area,perimeter\\na.tif,1,100,40\\n", 0.5, names).splitlines()[1]
    'a.tif,1,100,40,25,5.6419,20'
    """
    result = []
    for row in csv.reader(io.StringIO(text, newline="")):
        if tuple(row) == tuple(header):
            result.append([*row, *UNIT_COLUMNS])
            continue
        said = dict(zip(header, row, strict=True))
        result.append([*row, *in_micrometers(said["area"], said.get("perimeter", ""), pixel_size)])
    return csv_text(result)


def with_channels(text: str, means: Sequence[Sequence[float]], number: int, header: Sequence[str]) -> str:
    """A table's rows with the mean intensity in so many channels behind them; empty where they are not known.

    Args:
        text: CSV, with or without its header line.
        means: of each channel, of each row.
        header: names of the table's columns.

    >>> with_channels("image,id\\na.tif,1\\na.tif,2\\n", [[7.5, 8.0], [90.0, 91.0]], 2, ("image", "id")).splitlines()
    ['image,id,mean_intensity_1,mean_intensity_2', 'a.tif,1,7.5,90.0', 'a.tif,2,8.0,91.0']
    """
    values = iter(zip(*means, strict=True))
    result = []
    for row in csv.reader(io.StringIO(text, newline="")):
        named = tuple(row) == tuple(header)
        result.append([*row, *(channel_columns(number) if named else next(values, ("",) * number))])
    return csv_text(result)


def channel_columns(number: int) -> tuple[str, ...]:
    """Names of the columns of so many channels."""
    return tuple(f"mean_intensity_{channel}" for channel in range(1, number + 1))


def intensities(instances: Instances, channel: NDArray[Any]) -> list[float]:
    """The mean of each object in one channel (H, W, 1), in the image's own units; 0 of an object without a pixel.

    Boxes alone have none: the list is empty then.
    """
    if instances.masks is None:
        return []
    bitmaps = instances.masks.to_bitmaps()
    return [
        round(_mean_intensity(crop, int(x), int(y), channel, max(int(crop.sum()), 1)), 3)
        for crop, (x, y) in zip(bitmaps.crops, bitmaps.origins, strict=True)
    ]


def in_micrometers(area: str, perimeter: str, size: float | None) -> tuple[str, ...]:
    """Area, diameter of the circle of that area, and perimeter; six digits are kept."""
    if size is None:
        return ("",) * len(UNIT_COLUMNS)
    square = float(area) * size**2
    lengths = [2 * math.sqrt(square / math.pi), float(perimeter) * size if perimeter else None]
    return tuple("" if value is None else f"{value:.6g}" for value in (square, *lengths))


def to_csv(table: Iterable[Sequence[str | int | float]], header: bool = True, columns: Sequence[str] = COLUMNS) -> str:
    """Rows of ``COLUMNS`` -> CSV text of some of them (RFC 4180 quoting, ``\\n`` line ends)."""
    chosen = [i for i, name in enumerate(COLUMNS) if name in columns]
    rows = ([row[i] for i in chosen if i < len(row)] for row in table)
    return csv_text([columns] if header else []) + csv_text(rows)


def _measures(
    instances: Instances, image: NDArray[Any], boxes: NDArray[np.float64]
) -> list[tuple[str | int | float, ...]]:
    """(area, centroid x, y, perimeter, eccentricity, mean intensity) of each object."""
    if instances.masks is None:
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return [(round(float(area), 2), "", "", "", "", "") for area in areas]
    bitmaps = instances.masks.to_bitmaps()
    return [_measure(crop, int(x), int(y), image) for crop, (x, y) in zip(bitmaps.crops, bitmaps.origins, strict=True)]


def _measure(crop: NDArray[np.bool_], x: int, y: int, image: NDArray[Any]) -> tuple[str | int | float, ...]:
    """One object: its bitmap with the upper left pixel at (x, y) of the image."""
    area = int(crop.sum())
    if not area:
        return 0, "", "", "", "", ""
    columns, lines = crop.sum(0), crop.sum(1)
    xs, ys = np.arange(crop.shape[1]) + 0.5, np.arange(crop.shape[0]) + 0.5
    cx, cy = float(columns @ xs) / area, float(lines @ ys) / area
    var_x, var_y = float(columns @ (xs - cx) ** 2) / area, float(lines @ (ys - cy) ** 2) / area
    covariance = float((ys - cy) @ (crop @ (xs - cx))) / area
    return (
        area,
        _rounded(x + cx, 2),
        _rounded(y + cy, 2),
        _rounded(_perimeter(crop), 3),
        _rounded(_eccentricity(var_x, var_y, covariance), 4),
        _rounded(_mean_intensity(crop, x, y, image, area), 3),
    )


def _eccentricity(var_x: float, var_y: float, covariance: float) -> float:
    """Of the ellipse with these second moments: 0 is a circle, towards 1 a line."""
    middle, spread = (var_x + var_y) / 2, math.hypot((var_x - var_y) / 2, covariance)
    longest, shortest = middle + spread, max(middle - spread, 0.0)
    return math.sqrt(1 - shortest / longest) if longest > 0 else 0.0


def _perimeter(crop: NDArray[np.bool_]) -> float:
    """Length of the outline and of the holes' outlines (Benkrid, Crookes, Benkrid: "Design and FPGA
    Implementation of a Perimeter Estimator", 2000): every border pixel counts by how it meets its neighbors."""
    mask = np.pad(crop, 1).astype(np.uint8)
    border = mask - cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    kinds = cv2.filter2D(border, cv2.CV_8U, _NEIGHBORS, borderType=cv2.BORDER_CONSTANT)
    return float(_STEP[kinds[border > 0]].sum())


def _mean_intensity(crop: NDArray[np.bool_], x: int, y: int, image: NDArray[Any], area: int) -> float:
    height, width = crop.shape
    total = 0.0
    step = max(1, _BAND // width)
    for top in range(0, height, step):
        inside = crop[top : top + step]
        window = image[y + top : y + top + len(inside), x : x + width]
        total += float(window[inside].sum(dtype=np.float64))
    return total / float(area * image.shape[2])


def _rounded(value: Any, digits: int) -> Any:
    """A plain number without float noise; empty strings stay."""
    return value if isinstance(value, str) else round(float(value), digits)
