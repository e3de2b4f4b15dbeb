"""A COCO data set, and results on it, with classes merged: for models that tell fewer classes apart than the data.

A model that knows *animal* can be measured on annotations of cats and dogs once these are animals; and whether a model
finds objects at all is seen where all classes are one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eachmask.data.formats.coco import CocoDataset
from eachmask.data.formats.coco_fields import parsed, read_categories, read_json
from eachmask.data.formats.coco_results import left_out, match_categories
from eachmask.data.targets import named_categories
from eachmask.files.atomic import write_text
from eachmask.structures import Category, UserError

Merge = Literal["supercategories", "all"]


@dataclass(frozen=True)
class Merged:
    """What became of the classes."""

    dataset: CocoDataset
    original: tuple[Category, ...]
    merge: Merge
    labels: tuple[int, ...]
    """The merged label of each of the original classes."""

    def of_model(self, known: Sequence[Category]) -> tuple[dict[int, int], list[str]]:
        """The model's label -> the merged one, and what to note: it may know merged classes, original ones or both.

        Raises:
            UserError: it knows neither.
        """
        if self.merge == "all":
            return dict.fromkeys(range(len(known)), 0), []
        originals = {c.name: label for c, label in zip(self.original, self.labels, strict=True)}
        return match_categories(known, self.dataset.categories, also=originals)

    def results(self, path: Path) -> tuple[dict[str, Any] | list[Any], list[str]]:
        """A results file's content with merged categories, and what to note.

        Raises:
            UserError: no results file, or a result of a category that is not in the annotations.
        """
        content = parsed(path)
        rows = content.get("annotations") if isinstance(content, dict) else content
        if not isinstance(rows, list):
            raise UserError(f"{path} is no COCO results file: it must hold a list, or an object with annotations")
        categories = self.dataset.categories
        notes: list[str] = []
        ids = {c.id: categories[label].id for c, label in zip(self.original, self.labels, strict=True)}
        theirs = content.get("categories") if isinstance(content, dict) else None
        if theirs:
            known = read_categories(theirs, path)
            labels, notes = self.of_model(known)
            ids = {c.id: categories[labels[i]].id for i, c in enumerate(known) if i in labels}
            foreign = [c.id for c in known if c.id not in ids]
            measured = [row for row in rows if not isinstance(row, dict) or row.get("category_id") not in foreign]
            notes = notes + left_out(len(rows) - len(measured))
            rows = measured
        merged = [_with_category(row, ids, number, path) for number, row in enumerate(rows, start=1)]
        if not isinstance(content, dict):
            return merged, notes
        return content | {"annotations": merged, "categories": [_row(c) for c in categories]}, notes


def merge_classes(dataset: CocoDataset, merge: Merge, path: Path) -> Merged:
    """Write the annotations with merged classes to ``path``, whole or not at all, and read them from there.

    Raises:
        UserError: supercategories are wanted, and no category has one.
    """
    original = dataset.categories
    if merge == "supercategories" and not any(c.parent for c in original):
        raise UserError(
            f"{dataset.path}: no category has a supercategory, so there is nothing to merge them by; --merge all makes "
            "them one class"
        )
    names = ["object" if merge == "all" else c.parent or c.name for c in original]
    categories = named_categories(names)
    place = {category.name: label for label, category in enumerate(categories)}
    labels = tuple(place[name] for name in names)
    ids = {c.id: categories[label].id for c, label in zip(original, labels, strict=True)}
    content = read_json(dataset.path, ("images", "annotations", "categories"))
    rows = [_with_category(row, ids, number, dataset.path) for number, row in enumerate(content["annotations"], 1)]
    content |= {"annotations": rows, "categories": [_row(c) for c in categories]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content))
    return Merged(CocoDataset(path, dataset.folder), original, merge, labels)


def _row(category: Category) -> dict[str, Any]:
    return {"id": category.id, "name": category.name}


def _with_category(row: Any, ids: dict[Any, int], number: int, path: Path) -> Any:
    """The annotation or result with its merged category; what is none is left for the reader to name."""
    if not isinstance(row, dict) or "category_id" not in row:
        return row
    try:
        merged = ids[row["category_id"]]
    except (KeyError, TypeError):
        raise UserError(
            f"{path}: entry {number} has category_id {row['category_id']!r}, which no category has"
        ) from None
    return row | {"category_id": merged}
