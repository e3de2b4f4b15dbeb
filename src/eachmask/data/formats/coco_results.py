"""Results in COCO's format, of this or of any other tool -> predictions for the images of a data set.

A plain list speaks of images and categories by the data set's ids. A file with ``images`` and ``categories`` of its
own, as ``eachmask predict`` writes it, counts them in its own way: there names say what is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch

from eachmask.data.formats.coco import CocoDataset, in_image_order, rasterized_of
from eachmask.data.formats.coco_fields import parsed, read_categories, whole_number
from eachmask.data.formats.segmentations import corners
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.category import nearest_labels

_NUMBER = (int, float)


class Results(NamedTuple):
    """The predictions of a file."""

    instances: list[Instances]
    """In the order of the data set."""
    rows: list[dict[str, Any]]
    """The same as COCO's dicts: number, the data set's ids, score, segmentation, bbox, keypoints and nothing else."""
    notes: list[str]
    """What a reader of the measures should know."""


def read_results(path: str | Path, dataset: CocoDataset) -> Results:
    """COCO results: a list, or an object with ``annotations``.

    Raises:
        UserError: not a results file, or a result that cannot be measured; names file and result.
    """
    path = Path(path)
    content = parsed(path)
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f"{path} is no COCO results file: it must hold a list, or an object with annotations")
    own: Mapping[str, Any] = content if isinstance(content, dict) else {}
    images, categories, notes = _names(own, dataset, path)
    plain, foreign = [], 0
    for number, row in enumerate(rows, start=1):
        try:
            found = _plain(row, number, images, categories)
        except ValueError as error:
            raise UserError(f"{path}: result {number} {error}") from None
        if found is not None:
            plain.append(found)
        elif images[row["image_id"]] is not None:
            foreign += 1
    notes += left_out(foreign) + _with_masks(plain)
    return Results(_instances(plain, dataset, path), plain, notes)


def match_categories(
    known: Sequence[Category], wanted: Sequence[Category], also: Mapping[str, int] | None = None
) -> tuple[dict[int, int], list[str]]:
    """The model's label -> the data's label, by name (case does not matter), and what to note.

    A class that the data does not have is measured as its nearest ancestor that the data has: a cat as an animal.

    Args:
        also: further names of the data's labels; its own names come first.

    Raises:
        UserError: not one class in common.
    """
    if [category.name for category in known] == [category.name for category in wanted]:
        return {i: i for i in range(len(known))}, []  # also where two have the same name
    place = {name.casefold(): i for name, i in (also or {}).items()}
    place |= {category.name.casefold(): i for i, category in enumerate(wanted)}
    labels = nearest_labels(known, place)
    if not labels and len(known) == len(wanted) == 1:
        return {0: 0}, [f"the model's only class {known[0].name!r} is measured as the data's {wanted[0].name!r}"]
    if not labels:
        raise UserError(
            f"the model knows {_some(known)}, the annotations have {_some(wanted)}: no class in common, so there is "
            "nothing to measure; rename the categories of the annotations"
        )
    unknown = [c for i, c in enumerate(wanted) if i not in labels.values()]
    return labels, [f"the model does not know: {_some(unknown)}"] if unknown else []


def left_out(number: int) -> list[str]:
    """What to note of so many results whose classes the annotations do not have."""
    return [f"{number} results of classes that are not annotated: left out"] if number else []


def _some(categories: Sequence[Category]) -> str:
    names = [category.name for category in categories]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _names(
    own: Mapping[str, Any], dataset: CocoDataset, path: Path
) -> tuple[dict[Any, Any], dict[Any, Any], list[str]]:
    """The file's id of an image and of a category -> the data set's, None where it is not there to be measured."""
    notes: list[str] = []
    images: dict[Any, Any] = {record["id"]: record["id"] for record in dataset.records}
    if isinstance(own.get("images"), list):
        images, notes = _by_file_name(own["images"], dataset, path)
    categories: dict[Any, Any] = {category.id: category.id for category in dataset.categories}
    if isinstance(own.get("categories"), list) and own["categories"]:
        theirs = read_categories(own["categories"], path)
        labels, unknown = match_categories(theirs, dataset.categories)
        categories = {c.id: dataset.categories[labels[i]].id if i in labels else None for i, c in enumerate(theirs)}
        notes += unknown
    return images, categories, notes


def _by_file_name(rows: Sequence[Any], dataset: CocoDataset, path: Path) -> tuple[dict[Any, Any], list[str]]:
    """Images of one name are the same; the folders above count only where two have one name."""
    try:
        theirs = {row["id"]: str(row["file_name"]) for row in rows}
    except (TypeError, KeyError):
        raise UserError(f"{path}: each image needs an id and a file_name") from None
    ours = {record["id"]: str(record["file_name"]) for record in dataset.records}
    exact, last = {name: own for own, name in ours.items()}, _unique_last(ours)
    last_of_theirs = _unique_last(theirs)
    found = {
        number: exact.get(name, last.get(_last(name)) if last_of_theirs.get(_last(name)) == number else None)
        for number, name in theirs.items()
    }
    missed = len(ours) - len({own for own in found.values() if own is not None})
    if ours and missed == len(ours):
        raise UserError(f"{path} is of other images than {dataset.path}: no file_name is in both")
    notes = [f"{missed} annotated images are not in the results: all their objects count as missed"] if missed else []
    foreign = sum(own is None for own in found.values())
    return found, notes + ([f"{foreign} images of the results are not annotated: left out"] if foreign else [])


def _unique_last(names: Mapping[Any, str]) -> dict[str, Any]:
    """File name without folders -> id, where only one has it."""
    found: dict[str, list[Any]] = {}
    for number, name in names.items():
        found.setdefault(_last(name), []).append(number)
    return {name: numbers[0] for name, numbers in found.items() if len(numbers) == 1}


def _last(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _plain(row: Any, number: int, images: Mapping[Any, Any], categories: Mapping[Any, Any]) -> dict[str, Any] | None:
    """One result, numbered, with the data set's ids; None where that has no such image or category to measure.

    Raises:
        ValueError: what is wrong with it.
    """
    if not isinstance(row, dict):
        raise ValueError("is no object with image_id, category_id, score and segmentation")
    ids = {"image_id": row.get("image_id"), "category_id": whole_number(row.get("category_id"))}
    for key, known in (("image_id", images), ("category_id", categories)):
        if not isinstance(ids[key], int | float | str) or ids[key] not in known:
            raise ValueError(f"has {key} {row.get(key)}, which the annotations do not know")
    image, category = images[ids["image_id"]], categories[ids["category_id"]]
    if image is None or category is None:
        return None
    if "score" not in row:
        raise ValueError("has no score, but results need a score each: annotations are not predictions")
    if type(row["score"]) not in _NUMBER or not math.isfinite(row["score"]):
        raise ValueError(f"has the score {row['score']}: it must be a finite number")
    box = row.get("bbox")
    if box is not None and not _is_box(box):
        raise ValueError(f"has the bbox {box}: it must be x, y, width and height")
    parts = {key: row[key] for key in ("segmentation", "bbox", "keypoints") if row.get(key)}  # null says nothing
    if "segmentation" not in parts and "bbox" not in parts:
        raise ValueError("has neither a segmentation nor a bbox")
    return {"id": number, "image_id": image, "category_id": category, "score": row["score"], **parts}


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {*_NUMBER}
    return numbers and all(map(math.isfinite, box)) and box[2] >= 0 and box[3] >= 0


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


def _instances(rows: Sequence[dict[str, Any]], dataset: CocoDataset, path: Path) -> list[Instances]:
    label_of = {category.id: label for label, category in enumerate(dataset.categories)}
    records = list(dataset.records)
    groups = in_image_order(rows, records, path)
    return [
        Instances(
            image_size=drawn.masks.size,
            boxes=torch.from_numpy(drawn.boxes),
            masks=drawn.masks,
            labels=torch.tensor([label_of[row["category_id"]] for row in group], dtype=torch.int64),
            scores=torch.tensor([row["score"] for row in group], dtype=torch.float32),
            categories=dataset.categories,
        )
        for group, drawn in zip(groups, rasterized_of(groups, records, path), strict=True)
    ]
