"""Datumaro's own format: ``annotations/SUBSET.json`` of items, and their images in ``images/SUBSET``.

Annotations of one ``group`` are one object, whose box says nothing where it has a mask or polygons. Read are polygons,
masks, boxes, turned boxes and ellipses. Crowd regions and scores are attributes, as Datumaro writes those of COCO.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.coco_fields import parsed
from eachmask.data.formats.drawn import beginning, ellipse, turned_box
from eachmask.data.formats.format import Format
from eachmask.data.formats.segmentations import LEAVES, Rows, Size, corners, rasterize_readable, without_pixels
from eachmask.data.images.files import copy_image, image_size, matching, safe_name
from eachmask.data.problems import NoAreaError, Problem, unread
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import instances_of, masks_of, score_in, united
from eachmask.files.atomic import atomic
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Category, UserError

_IDS = "category_ids"
"""In the file's ``infos``: the data set's own ids of its classes."""
_OUTLINES = ("polygon", "mask")
_BOXES = ("bbox", "rotated_bbox", "ellipse")
_WITHOUT_AREA = ("points", "polyline", "cuboid_3d", "cuboid_2d")
_BROKEN = (LookupError, TypeError, ValueError, AttributeError)


class _Page(NamedTuple):
    """What an item says besides its outlines; the lists have an entry for each shape."""

    file: Path
    split: str
    name: str
    image: Path
    where: list[str]
    objects: list[Hashable]
    labels: list[int]
    crowd: list[bool]
    scores: list[float | None]


def read_datumaro(source: Path, progress: Progress = no_progress) -> Dataset:
    """Read every subset of a folder, or one annotation file.

    Raises:
        UserError: there is none, or one is not of this make.
    """
    files = _files(source)
    if not files:
        raise UserError(f"{source} holds no annotations of Datumaro: export the project as annotations/SUBSET.json")
    contents = {path: _content(path) for path in progress("parsing", files)}
    result = DatasetBuilder(_categories(contents))
    for path, content in contents.items():
        split = path.stem if path.stem != "default" else "all"
        result.add_split(split)
        pages = _pages(progress("reading", content["items"]), path, split, result)
        for page, drawn, mistakes in rasterize_readable(pages):
            for i in mistakes.outside:
                result.report(Problem(str(path), page.where[i], *LEAVES))
            for problem in without_pixels(path, page.where, drawn, mistakes).values():
                result.report(problem)
            masks, (labels, crowd, scores) = united(drawn, page.objects, (page.labels, page.crowd, page.scores))
            targets = instances_of(masks, labels, crowd, result.categories, scores)
            result.add(split, page.name, page.image, targets)
    return result.build()


def write_datumaro(target: Path, data: Dataset, progress: Progress = no_progress) -> list[str]:
    """Write annotations/SPLIT.json and images/SPLIT; the format holds holes, parts, overlaps, crowd and scores."""
    labels = [{"name": c.name, "parent": c.parent, "attributes": []} for c in data.categories]
    head = {
        "dm_format_version": "1.0",
        "media_type": 2,
        "infos": {_IDS: [category.id for category in data.categories]},
        "categories": {"label": {"labels": labels, "label_groups": [], "attributes": ["is_crowd", "score"]}},
    }
    (target / "annotations").mkdir(parents=True, exist_ok=True)
    for name, split in data.splits.items():
        subset = "default" if name == "all" else name
        with atomic(target / "annotations" / f"{subset}.json") as file:
            file.write(json.dumps(head)[:-1] + ', "items": [')
            for number, image in enumerate(progress("writing", split.images())):
                copy_image(image, target / "images" / subset / image.name)
                entry = {"path": image.name, "size": list(image.image_size)}
                item = {"id": image.stem, "annotations": _annotations(image), "attr": {"frame": number}, "image": entry}
                file.write((", " if number else "") + json.dumps(item))
            file.write("]}")
    return []


def _annotations(image: AnnotatedImage) -> list[dict[str, Any]]:
    targets = image.targets
    masks = masks_of(targets)
    polygons, rles = masks.to_polygons(), masks.to_coco()
    rows = []
    columns = (targets.labels.tolist(), targets.crowd.tolist(), image.scores)
    for i, (label, crowd, score) in enumerate(zip(*columns, strict=True)):
        attributes = {"is_crowd": bool(crowd)} | ({} if score is None else {"score": score})
        row = {"id": i + 1, "attributes": attributes, "group": i + 1, "label_id": label, "z_order": i}
        if len(polygons.outers[i]) == 1 and not polygons.holes[i]:
            shape: dict[str, Any] = {"type": "polygon", "points": polygons.outers[i][0].ravel().astype(float).tolist()}
        else:
            shape = {"type": "mask", "rle": rles[i]}
        rows.append(row | shape)
    return rows


# Reading ------------------------------------------------------------------------------------------


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" and _is_datumaro(source) else []
    return [path for path in matching(source, "annotations/*.json") if _is_datumaro(path)]


def _is_datumaro(path: Path) -> bool:
    text = beginning(path)
    return all(word in text for word in (b'"items"', b'"categories"', b'"label"'))


def _content(path: Path) -> dict[str, Any]:
    content = parsed(path)
    try:
        names = [str(row["name"]) for row in content["categories"]["label"]["labels"]]
        if not isinstance(content["items"], list):
            raise TypeError
    except (LookupError, TypeError):
        raise UserError(f"{path} is no annotation file of Datumaro: it needs items, and labels of categories") from None
    return {**content, "names": names}


def _categories(contents: dict[Path, dict[str, Any]]) -> tuple[Category, ...]:
    """Those of all subsets, which must be the same."""
    first = next(iter(contents.values()))
    for path, content in contents.items():
        if content["names"] != first["names"]:
            raise UserError(f"{path}: its labels are not those of the other subsets: export them together")
    infos = first.get("infos")
    ids = infos.get(_IDS) if isinstance(infos, dict) else None
    known = isinstance(ids, list) and len(ids) == len(first["names"]) and all(type(i) is int for i in ids)
    numbers: Sequence[int] = ids if known and ids is not None else range(1, len(first["names"]) + 1)
    parents = [str(row.get("parent") or "") for row in first["categories"]["label"]["labels"]]
    return tuple(
        Category(number, name, parent if parent != "none" else "")
        for number, name, parent in zip(numbers, first["names"], parents, strict=True)
    )


def _pages(items: Iterable[Any], file: Path, split: str, result: DatasetBuilder) -> Iterator[tuple[_Page, Rows, Size]]:
    base = file.parent.parent if file.parent.name == "annotations" else file.parent
    for number, item in enumerate(items, start=1):
        try:
            entry = item.get("image") or {}
            name = safe_name(str(entry.get("path") or f"{item['id']}.jpg"), file)
            places = [base / "images" / file.stem / name, base / "images" / name, base / name]
            image = next((place for place in places if place.is_file()), places[0])
            size = _size(entry, image)
        except _BROKEN as error:
            why = str(error) if isinstance(error, UserError) else "its id, path or size is missing"
            result.report(Problem(str(file), f"item {number}", why, "export it again", "image"))
            continue
        page = _Page(file, split, name, image, [], [], [], [], [])
        yield page, list(_rows(item.get("annotations") or [], page, result)), size


def _size(entry: dict[str, Any], image: Path) -> Size:
    if not entry.get("size"):
        return image_size(image)
    height, width = (int(v) for v in entry["size"])
    if min(height, width) < 1:
        raise ValueError("its size is no size")
    return height, width


def _rows(annotations: Sequence[Any], page: _Page, result: DatasetBuilder) -> Iterator[dict[str, Any]]:
    outlined = {a.get("group") for a in annotations if isinstance(a, dict) and a.get("type") in _OUTLINES} - {0, None}
    for number, row in enumerate(annotations, start=1):
        where = f"annotation {number} of {page.name}"
        try:
            kind, group = row["type"], row.get("group") or 0
            if kind not in (*_OUTLINES, *_BOXES, *_WITHOUT_AREA) or (kind in _BOXES and group in outlined):
                continue  # tags and captions, and the boxes of what has an outline
            segmentation, label = _segmentation(row), int(row["label_id"])
            if not 0 <= label < len(result.categories):
                raise ValueError(f"its label_id {label} is not among the labels")
        except _BROKEN as error:
            result.report(unread(page.file, where, error))
            continue
        attributes = row.get("attributes") or {}
        page.where.append(where)
        page.objects.append(("group", group, label) if group else number)
        page.labels.append(label)
        page.crowd.append(bool(attributes.get("is_crowd") or attributes.get("crowd")))
        page.scores.append(score_in(attributes))
        yield {"segmentation": segmentation}


def _segmentation(row: dict[str, Any]) -> Any:
    kind = row["type"]
    if kind == "mask":
        return row["rle"]
    if kind == "polygon":
        return [[float(v) for v in row["points"]]]
    if kind == "bbox":
        return [corners([float(v) for v in row["bbox"]])]
    if kind == "ellipse":
        x1, y1, x2, y2 = (float(v) for v in row["points"])
        return ellipse((x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2)
    if kind != "rotated_bbox":
        raise NoAreaError(kind)
    x, y, w, h, degrees = (float(v) for v in row["bbox"])
    return [turned_box(x, y, w, h, degrees)]


FORMAT = Format(
    "datumaro", lambda source: bool(_files(source)), "annotations/SUBSET.json of items", read_datumaro, write_datumaro
)
