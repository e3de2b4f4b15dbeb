"""LabelMe: one JSON file per image, with shapes.

Objects of one part without holes are written as ``polygon``. All others are ``mask`` shapes, a PNG of the object's
window in base64 (known to LabelMe since 5.2), so nothing is lost. Crowd regions carry the flag ``crowd``.
Read are also ``rectangle``, ``circle``, and shapes that one ``group_id`` makes parts of one object; and the XML files
of LabelMe's web version, by :mod:`~eachmask.data.formats.labelme_xml`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.elsewhere import ImageFolder
from eachmask.data.formats.classes_file import CLASSES_FILE, known_categories, with_categories, write_categories
from eachmask.data.formats.format import Format
from eachmask.data.formats.labelme_xml import read_labelme_xml, xml_files
from eachmask.data.formats.segmentations import LEAVES, Rows, Size, rasterize_readable, without_pixels
from eachmask.data.images.embedded import FIELD, suffix_of
from eachmask.data.images.files import copy_image, files_below, find_image, image_size
from eachmask.data.problems import NoAreaError, Problem, reason, unread
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import instances_of, masks_of, score_in, united
from eachmask.files.json_text import read_json_file
from eachmask.files.png import png
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import RLE, Category, UserError

IGNORE, BACKGROUND = "__ignore__", "_background_"
"""Labels of LabelMe's own examples that are no classes: a region to be ignored, and what is no object."""
_REGIONS = ("polygon", "mask", "rectangle", "circle", "rotation", "oriented_rectangle", "quadrilateral")
"""Shapes with an area; the last three of four corners, as some tools write."""
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
_NO_SPLITS = ("labels", "annotations", "images")
"""Folders that say what is in them."""
_ANY = -1
"""The label of what is ignored, whatever it is: becomes the first."""


class _Page(NamedTuple):
    """What a file says besides the outlines; the lists have an entry for each shape that has one."""

    file: Path
    split: str
    name: str
    image: Path
    numbers: list[int]
    """The shape's place in the file, from 1."""
    objects: list[Hashable]
    """Which object it is a part of."""
    labels: list[int]
    crowd: list[bool]
    scores: list[float | None]
    refused: dict[int, Problem]
    """What is wrong with each shape that cannot be used, by its place in the file."""


def read_labelme(source: Path, progress: Progress = no_progress, *, images: Path | None = None) -> Dataset:
    """Read all LabelMe files below a folder, whose own folders are the splits, or one file.

    Raises:
        UserError: there is none.
    """
    if not _has_json(source) and xml_files(source):
        return read_labelme_xml(source, progress, images=images)
    result = DatasetBuilder()
    alone, source = ([source], source.parent) if source.is_file() else ([], source)
    known = known_categories(source / CLASSES_FILE)
    label_of = {name: i for i, name in enumerate(known)}
    ours = (source / CLASSES_FILE, source / "convert-report.json")
    inside = 0
    files = alone or [path for path in files_below(source, "*.json") if path not in ours]
    for page, drawn, mistakes in rasterize_readable(
        _pages(progress("reading", files), source, label_of, result.problems)
    ):
        where = [f"shape {number}" for number in page.numbers]
        for i in mistakes.outside:
            result.report(Problem(str(page.file), where[i], *LEAVES))
        empty = without_pixels(page.file, where, drawn, mistakes).items()
        bad = page.refused | {page.numbers[i]: problem for i, problem in empty}
        for number in sorted(bad):
            result.report(bad[number])
        inside += page.image == page.file
        masks, (labels, crowd, scores) = united(drawn, page.objects, (page.labels, page.crowd, page.scores))
        targets = instances_of(masks, labels, crowd, (), scores)
        result.add(page.split, page.name, page.image, targets)
    if inside:
        what, remedy = f"{inside} images are only inside the JSON files (imageData)", "they are read from there"
        result.report(Problem(str(source), "", what, remedy, "image", "note"))
    if not len(result) and all(problem.kind == "file" for problem in result.problems):
        raise UserError(f"{source} holds no LabelMe files (JSON with a list named shapes)")
    return with_categories(result.build(), known, label_of)


def write_labelme(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write SPLIT/NAME.json beside the images, and classes.json with the data set's ids."""
    target.mkdir(parents=True, exist_ok=True)
    write_categories(target, data)
    for split, image in progress("writing", list(data.images())):
        copy_image(image, target / split / image.name)
        height, width = image.image_size
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": _shapes(image, data.categories),
            "imagePath": Path(image.name).name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        path = target / split / f"{image.stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return []


def _shapes(image: AnnotatedImage, categories: tuple[Category, ...]) -> list[dict[str, Any]]:
    targets = image.targets
    masks = masks_of(targets)
    polygons, bitmaps, scores = masks.to_polygons(), masks.to_bitmaps(), image.scores
    shapes = []
    for i, (label, crowd) in enumerate(zip(targets.labels.tolist(), targets.crowd.tolist(), strict=True)):
        outers, holes = polygons.outers[i], polygons.holes[i]
        shape: dict[str, Any] = {"label": categories[label].name, "group_id": None, "flags": {}, "description": ""}
        if crowd:
            shape["flags"] = {"crowd": True}
        if scores[i] is not None:
            shape["score"] = scores[i]  # kept by LabelMe, shown by X-AnyLabeling
        if len(outers) == 1 and not holes:
            shape |= {"shape_type": "polygon", "points": outers[0].astype(float).tolist(), "mask": None}
        else:
            shape |= _mask_shape(bitmaps.crops[i], *bitmaps.origins[i].tolist())
        shapes.append(shape)
    return shapes


def _mask_shape(crop: NDArray[np.bool_], x: int, y: int) -> dict[str, Any]:
    """The window's corners, both inside it, and its pixels as PNG."""
    data = png(crop.astype(np.uint8) * np.uint8(255))
    points = [[float(x), float(y)], [float(x + crop.shape[1] - 1), float(y + crop.shape[0] - 1)]]
    return {"shape_type": "mask", "points": points, "mask": base64.b64encode(data).decode("ascii")}


# Reading ------------------------------------------------------------------------------------------


def _pages(
    files: Iterable[Path], source: Path, label_of: dict[str, int], problems: list[Problem]
) -> Iterator[tuple[_Page, Rows, Size]]:
    """Each file with the outlines of its shapes, not yet filled; names that are new get the next label."""
    below = cache(lambda: ImageFolder(source))
    for path in files:
        try:
            content = read_json_file(path)
            if not isinstance(content.get("shapes"), list):
                raise ValueError("it has no list of shapes")
        except (UserError, ValueError, AttributeError) as error:
            problems.append(Problem(str(path), "", f"no LabelMe file ({reason(error)})", "mend or remove it", "file"))
            continue
        for shape in content["shapes"]:
            known = isinstance(shape, dict) and shape.get("label") not in (None, "", IGNORE, BACKGROUND)
            if known and (shape.get("shape_type") or "polygon") in _REGIONS:
                label_of.setdefault(str(shape["label"]), len(label_of))
        inner, image = path.relative_to(source), _image(path, content, source, below)
        try:
            size = _size(content, image)
            if min(size) < 1:
                raise ValueError
        except (TypeError, ValueError):
            what = "imageHeight and imageWidth must be whole numbers above 0"
            problems.append(Problem(str(path), "", what, "save it anew in LabelMe", "image"))
            continue
        top = source / inner.parts[0] if len(inner.parts) > 1 else source
        split = "all" if top == source or top.name.casefold() in _NO_SPLITS else top.name
        suffix = suffix_of(content[FIELD]) if image == path else image.suffix
        name = path.with_suffix(suffix).relative_to(top)
        page = _Page(path, split, name.as_posix(), image, [], [], [], [], [], {})
        yield page, list(_rows(content["shapes"], page, size, label_of)), size


def _rows(shapes: Sequence[Any], page: _Page, size: Size, label_of: dict[str, int]) -> Iterator[dict[str, Any]]:
    for number, shape in enumerate(shapes, start=1):
        if isinstance(shape, dict) and shape.get("label") == BACKGROUND:
            continue
        try:
            row = {"segmentation": segmentation_of(shape, size)}
            if shape.get("label") in (None, ""):
                raise ValueError("it has no label")
            label, group, flags = str(shape["label"]), shape.get("group_id"), shape.get("flags") or {}
            crowd = bool(flags.get("crowd"))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            page.refused[number] = unread(page.file, f"shape {number}", error)
            continue
        page.numbers.append(number)
        page.objects.append(number if group is None else ("group", str(group), label))
        page.labels.append(label_of.get(label, _ANY))
        page.crowd.append(crowd or label == IGNORE)
        page.scores.append(score_in(shape))
        yield row


def _image(path: Path, content: dict[str, Any], source: Path, below: Callable[[], ImageFolder]) -> Path:
    """The image where the file says it is, within the data set, or beside it: by the name it gives, or by its own; else
    the only one of that name in the data set."""
    named = str(content.get("imagePath") or "").replace("\\", "/")
    name = Path(named).name
    for place in (path.parent / named, path.parent / name) if name else ():
        if place.is_file() and place.resolve().is_relative_to(source.resolve()):
            return place
    beside = find_image(path.parent, path.stem)
    if beside is None and isinstance(content.get(FIELD), str) and content[FIELD]:
        return path  # the image is inside
    return beside or below().named(name) or path.parent / (name or f"{path.stem}.jpg")


def _size(content: dict[str, Any], image: Path) -> Size:
    """(height, width) as the file says, or, where an old one does not, those of the image.

    Raises:
        ValueError: neither is there.
    """
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return image_size(image) if height is None and width is None else (int(height or 0), int(width or 0))


def segmentation_of(shape: dict[str, Any], size: Size) -> Any:
    """A shape as COCO writes it: its ring, or its run lengths."""
    kind = shape.get("shape_type") or "polygon"
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if kind == "mask":
        return _read_mask(shape, points, size).to_coco()[0]
    if kind == "rectangle" and len(points) == 2:
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    elif kind == "circle":
        if len(points) != 2:
            raise ValueError("a circle needs its center and a point on it")
        angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        radius = np.hypot(*(points[1] - points[0]))
        points = points[0] + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    elif kind in _WITHOUT_AREA:
        raise NoAreaError(kind)
    elif kind not in _REGIONS:
        raise ValueError(f"shapes of the type {kind!r} are not known")
    return [points.ravel().tolist()]


def _read_mask(shape: dict[str, Any], points: NDArray[np.float64], size: tuple[int, int]) -> RLE:
    try:
        data = np.frombuffer(base64.b64decode(shape["mask"], validate=True), np.uint8)
    except (binascii.Error, TypeError):
        raise ValueError("its mask is not base64") from None
    pixels = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if pixels is None:
        raise ValueError("its mask is no PNG")
    if not np.isfinite(points).all() or len(points) != 2:
        raise ValueError("a mask needs the two corners of its window")
    x, y = (round(float(v)) for v in points[0])
    return RLE.from_bitmaps((pixels > 0)[None]).shift(x, y, size)


def _has_json(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".json" and '"shapes"' in _ends(source)
    texts = (_ends(path) for path in files_below(source, "*.json")[:20])
    return any('"shapes"' in text and '"tracks"' not in text for text in texts)  # CVAT's backups have both


def _ends(path: Path) -> str:
    """The beginning and the end of a file; what lies between may be an image."""
    with open(path, "rb") as handle:
        head = handle.read(1 << 16)
        handle.seek(max(len(head), path.stat().st_size - (1 << 16)))
        text = head + handle.read(1 << 16)
    return text.replace(b"\0", b"").decode("utf-8", "replace")  # of UTF-16 the letters


def _looks_like(source: Path) -> bool:
    return _has_json(source) or bool(xml_files(source))


_MARKS = "JSON files with shapes, or XML with polygons"
FORMAT = Format("labelme", _looks_like, _MARKS, read_labelme, write_labelme, takes_images=True)
