"""Results in COCO's format, of this or of any other tool -> predictions for the images of a data set.

A plain list speaks of images and categories by the data set's ids. A file with ``images`` and ``categories`` of its
own, as ``eachmask predict`` writes it, counts them in its own way: there names say what is meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from eachmask.data.classes import Classes
from eachmask.data.formats.coco_fields import parsed, plain_id, read_categories, whole_number
from eachmask.data.formats.result_ids import image_key, images_by_id, last_name, misplaced, shift_of, unique_names
from eachmask.data.formats.segmentations import (
    BROKEN,
    Rasterized,
    corners,
    outline_of,
    rasterize,
    rasterize_one,
    reason,
)
from eachmask.data.split import Split
from eachmask.structures import Instances, UserError

_NUMBER = (int, float)


class Results(NamedTuple):
    """The predictions of a file."""

    instances: list[Instances]
    """In the order of the data set."""
    rows: list[dict[str, Any]]
    """The same as COCO's dicts: number, the data set's ids, score, segmentation, bbox, keypoints and nothing else."""
    notes: list[str]
    """What a reader of the measures should know."""


def read_results(path: str | Path, data: Split, classes: Classes | None = None) -> Results:
    """COCO results: a list, or an object with ``annotations``.

    Args:
        classes: what the results may call the data's classes; by default as the data does.

    Raises:
        UserError: not a results file, or a result that cannot be measured; names file and result.
    """
    return results_of(parsed(Path(path)), data, path, classes)


def results_of(content: Any, data: Split, path: str | Path, classes: Classes | None = None) -> Results:
    """The same of a file's content; ``path`` is what messages call it."""
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f"{path} is no COCO results file: it must hold a list, or an object with annotations")
    own: Mapping[str, Any] = content if isinstance(content, dict) else {}
    images, categories, notes = _names(own, rows, data, path, classes or Classes.of(data.categories))
    plain, places, foreign = [], [], 0
    for number, row in enumerate(rows, start=1):
        try:
            place, result = _plain(row, number, images, categories)
        except ValueError as error:
            raise UserError(f"{path}: result {number} {error}") from None
        if result is not None and place is not None:
            plain.append({**result, "image_id": data.image_id(place)})
            places.append(place)
        elif place is not None:
            foreign += 1
    notes += left_out(foreign) + _with_masks(plain) + _leaving(plain, places, data)
    notes += [] if rows or notes else ["the file holds no results: all objects count as missed"]
    boxed = [_with_box(row) for row in plain]
    bare = sum("bbox" in row for row in boxed) - sum("bbox" in row for row in plain)
    found = _instances(boxed, places, data, path)
    notes += (
        [f"{bare} results have keypoints alone: the box around these is theirs"] if bare else misplaced(found, data)
    )
    return Results(found, plain, notes)


def left_out(number: int) -> list[str]:
    """What to note of so many results whose classes the annotations do not have."""
    return [f"{number} results of classes that are not annotated: left out"] if number else []


def _names(
    own: Mapping[str, Any], rows: Sequence[Any], data: Split, path: str | Path, classes: Classes
) -> tuple[dict[Any, int | None], dict[Any, Any], list[str]]:
    """The file's id of an image -> its place, and of a category -> the data set's; None where it is not there to be
    measured."""
    notes: list[str] = []
    images: dict[Any, int | None]
    if isinstance(own.get("images"), list):
        images, notes = _by_file_name(own["images"], data, path)
    else:
        images, notes = images_by_id(rows, data)
    categories: dict[Any, Any] = {number: data.categories[label].id for number, label in classes.ids.items()}
    if isinstance(own.get("categories"), list) and own["categories"]:
        theirs = read_categories(own["categories"], path)
        labels, unknown = classes.labels_of(theirs)
        categories = {c.id: data.categories[labels[i]].id if i in labels else None for i, c in enumerate(theirs)}
        notes += unknown
    else:
        used = {category_key(row) for row in rows if isinstance(row, dict)} - {None}
        if shift_of(used, categories):
            categories = dict.fromkeys(used) | categories
        named = classes.also | {c.name: label for label, c in enumerate(data.categories)}
        categories = {name.casefold(): data.categories[label].id for name, label in named.items()} | categories
    return images, categories, notes


def category_key(row: Mapping[str, Any]) -> int | str | None:
    """What a result calls its category: a number, or, as some tools have it, a name."""
    name = row.get("category_name")
    if row.get("category_id") is None and isinstance(name, str):
        return name.casefold()
    named = row.get("category_id", name)
    number = whole_number(named)
    return named.casefold() if number is None and isinstance(named, str) else number


def _by_file_name(rows: Sequence[Any], data: Split, path: str | Path) -> tuple[dict[Any, int | None], list[str]]:
    """Images of one name are the same; the folders above count only where two have one name."""
    try:
        theirs = {plain_id(row["id"]): str(row["file_name"]) for row in rows}
    except (TypeError, KeyError):
        raise UserError(f"{path}: each image needs an id and a file_name") from None
    ours = {i: data.file_name(i) for i in range(len(data))}
    exact, last = {name: place for place, name in ours.items()}, unique_names(ours, last_name)
    last_of_theirs = unique_names(theirs, last_name)
    found = {
        number: exact.get(name, last.get(last_name(name)) if last_of_theirs.get(last_name(name)) == number else None)
        for number, name in theirs.items()
    }
    missed = len(ours) - len({own for own in found.values() if own is not None})
    if ours and missed == len(ours):
        raise UserError(f"{path} is of other images than the annotations: no file_name is in both")
    notes = [f"{missed} annotated images are not in the results: all their objects count as missed"] if missed else []
    foreign = sum(own is None for own in found.values())
    return found, notes + ([f"{foreign} images of the results are not annotated: left out"] if foreign else [])


def _plain(
    row: Any, number: int, images: Mapping[Any, int | None], categories: Mapping[Any, Any]
) -> tuple[int | None, dict[str, Any] | None]:
    """The place of a result's image, None where that is not there to be measured; the result, numbered, with the data
    set's category, None where that has none.

    Raises:
        ValueError: what is wrong with it.
    """
    if not isinstance(row, dict):
        raise ValueError("is no object with image_id, category_id, score and segmentation")
    ids = {"image_id": image_key(row), "category_id": category_key(row)}
    for key, known in (("image_id", images), ("category_id", categories)):
        if ids[key] is None and row.get(key) is None:
            raise ValueError(f"has no {key}")
        if ids[key] is None or ids[key] not in known:
            named = ids[key] if row.get(key) is None else row[key]
            raise ValueError(f"has {key} {named}, which the annotations do not know")
    image, category = images[ids["image_id"]], categories[ids["category_id"]]
    if image is None or category is None:
        return image, None
    if "score" not in row:
        raise ValueError("has no score, but results need a score each: annotations are not predictions")
    score = _number(row["score"])
    if not math.isfinite(score):
        raise ValueError(f"has the score {row['score']}: it must be a finite number")
    box = row.get("bbox")
    if box is not None and not _is_box(box):
        raise ValueError(f"has the bbox {box}: it must be x, y, width and height")
    points = row.get("keypoints")
    if points and not _are_keypoints(points):
        raise ValueError("has keypoints that are not x, y and visibility of each")
    parts = {key: row[key] for key in ("segmentation", "bbox", "keypoints") if row.get(key)}  # null says nothing
    if outline_of(row) is None or (box is not None and _encloses_nothing(outline_of(row))):
        parts.pop("segmentation", None)
    if not parts:
        raise ValueError("has neither a segmentation nor a bbox nor keypoints")
    return image, {"id": number, "image_id": image, "category_id": category, "score": score, **parts}


def _number(value: Any) -> float:
    """A number, which some tools write as text; NaN where it is none."""
    if type(value) in _NUMBER:
        return cast(float, value)
    try:
        return float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return math.nan


def _leaving(rows: Sequence[dict[str, Any]], places: Sequence[int], data: Split) -> list[str]:
    """What to note where boxes lead out of their images, as corners do that are taken for width and height."""
    boxes = [(row["bbox"], data.image_size(place)) for row, place in zip(rows, places, strict=True) if "bbox" in row]
    number = sum(x + w > width + 1 or y + h > height + 1 for (x, y, w, h), (height, width) in boxes)
    if 10 * number <= len(boxes):
        return []
    return [
        f"{number} of {len(boxes)} boxes leave their image: check that they are x, y, width, height and not corners"
    ]


def _encloses_nothing(rings: Any) -> bool:
    """Whether an outline has no ring of three points or more."""
    return isinstance(rings, list) and all(isinstance(ring, list) and len(ring) < 6 for ring in rings)


def _are_keypoints(points: Any) -> bool:
    numbers = isinstance(points, list) and len(points) % 3 == 0 and {*map(type, points)} <= {*_NUMBER}
    return numbers and all(map(math.isfinite, points))


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {*_NUMBER}
    return numbers and all(map(math.isfinite, box)) and box[2] >= 0 and box[3] >= 0


def _with_box(row: dict[str, Any]) -> dict[str, Any]:
    """Keypoints alone get the box around them, as pycocotools' ``loadRes`` makes it."""
    if "segmentation" in row or "bbox" in row:
        return row
    xs, ys = row["keypoints"][::3], row["keypoints"][1::3]
    return {**row, "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]}


def _with_masks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where some have masks all get one, their box: so all measures see the same. What to note of it."""
    bare = [row for row in rows if "segmentation" not in row and "bbox" in row]
    if not bare:
        return []
    if len(bare) == len(rows):
        return ["the results have no masks: where masks are measured, each is its whole box"]
    for row in bare:
        row["segmentation"] = [corners(row["bbox"])]
    return [f"{len(bare)} results have no mask: each is its whole box"]


def _instances(rows: Sequence[dict[str, Any]], places: Sequence[int], data: Split, path: str | Path) -> list[Instances]:
    label_of = {category.id: label for label, category in enumerate(data.categories)}
    groups: list[list[dict[str, Any]]] = [[] for _ in range(len(data))]
    for row, place in zip(rows, places, strict=True):
        groups[place].append(row)
    sizes = [data.image_size(i) for i in range(len(data))]
    return [
        Instances(
            image_size=masks.masks.size,
            boxes=torch.from_numpy(masks.boxes),
            masks=masks.masks,
            labels=torch.tensor([label_of[row["category_id"]] for row in group], dtype=torch.int64),
            scores=torch.tensor([row["score"] for row in group], dtype=torch.float32),
            categories=data.categories,
        )
        for group, masks in zip(groups, _readable(groups, sizes, data, path), strict=True)
    ]


def _readable(
    groups: Sequence[Sequence[dict[str, Any]]], sizes: Sequence[tuple[int, int]], data: Split, path: str | Path
) -> Iterator[Rasterized]:
    """The masks of each image; the first result whose mask cannot be read is named in a UserError."""
    for i, masks in enumerate(rasterize(zip(groups, sizes, strict=True))):
        if masks is None:
            raise _broken(groups[i], data.file_name(i), sizes[i], path)
        yield masks


def _broken(group: Sequence[dict[str, Any]], name: str, size: tuple[int, int], path: str | Path) -> UserError:
    for row in group:
        try:
            rasterize_one([row], size)
        except BROKEN as error:
            return UserError(
                f"{path}: the segmentation of result {row['id']} of {name} cannot be read ({reason(error)}): mend or "
                "remove it"
            )
    return UserError(f"{path}: the segmentations of {name} cannot be read: mend or remove them")
