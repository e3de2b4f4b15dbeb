"""``classes.json``: ids and names of the classes, beside annotations of programs that know names alone."""

from __future__ import annotations

import json
from pathlib import Path

from eachmask.data.dataset import Dataset
from eachmask.files.json_text import read_json_file
from eachmask.structures import Category, UserError

CLASSES_FILE = "classes.json"


def write_categories(target: Path, data: Dataset) -> None:
    """classes.json with the data set's ids and names."""
    ids = [{"id": c.id, "name": c.name} for c in data.categories]
    target.mkdir(parents=True, exist_ok=True)
    (target / CLASSES_FILE).write_text(json.dumps(ids), encoding="utf-8")


def known_categories(path: Path) -> dict[str, Category]:
    """Those of classes.json, by name; none where there is no such file."""
    try:
        rows = read_json_file(path) if path.is_file() else []
        return {str(row["name"]): Category(int(row["id"]), str(row["name"])) for row in rows}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} must be a list of objects with id and name") from None


def with_categories(data: Dataset, known: dict[str, Category], label_of: dict[str, int]) -> Dataset:
    """Labels were numbered as they came; now further ones follow the known in alphabetical order, numbered on."""
    first = max((category.id for category in known.values()), default=0) + 1
    further = sorted(set(label_of) - set(known))
    categories = (*known.values(), *(Category(i, name) for i, name in enumerate(further, start=first)))
    place = {category.name: i for i, category in enumerate(categories)}
    return data.relabeled([*(place[name] for name in label_of), *([0] if categories else [])], categories)
