"""``objects.csv`` (ours) beside masks: what class each is of, and whether it is a crowd region.

Columns split, image, number, category_id, category, crowd. Programs that do not know it lose only that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eachmask.data.dataset import Dataset
from eachmask.data.formats.spreadsheet import csv_text, escaped, unescaped
from eachmask.data.targets import instances_of
from eachmask.files.text import read_text
from eachmask.structures import RLE, Category, Instances, UserError

_COLUMNS = ("split", "image", "number", "category_id", "category", "crowd")


@dataclass
class ClassTable:
    categories: tuple[Category, ...] = (Category(1, "object"),)
    rows: dict[tuple[str, str, int], tuple[int, bool]] = field(default_factory=dict)
    """(split, image, number) -> label, crowd."""

    def targets(self, split: str, name: str, masks: dict[int, RLE]) -> Instances:
        joined = RLE.cat(list(masks.values()))
        known = [self.rows.get((split, name, n), (0, False)) for n, mask in masks.items() for _ in range(len(mask))]
        return instances_of(joined, [k for k, _ in known], [c for _, c in known], self.categories)


def read_table(source: Path) -> ClassTable:
    path = source / "objects.csv"
    if not path.is_file():
        return ClassTable()
    table = ClassTable(())
    label_of: dict[Category, int] = {}
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(read_text(path), newline="")), start=2):
            if any(row.get(name) is None for name in _COLUMNS):
                raise UserError(f"{path}, row {number}: it has not all of {', '.join(_COLUMNS)}; copy the file again")
            category = Category(int(row["category_id"]), unescaped(row["category"]))
            label = label_of.setdefault(category, len(label_of))
            if row["image"]:  # rows without one only introduce a category
                key = (unescaped(row["split"]), unescaped(row["image"]), int(row["number"]))
                table.rows[key] = (label, row["crowd"] == "1")
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} must have the columns {', '.join(_COLUMNS)}") from None
    if not label_of:
        raise UserError(f"{path} names no class: write it again, or remove it where all objects are of one class")
    table.categories = tuple(label_of)
    return table


def write_table(target: Path, data: Dataset) -> None:
    rows: list[Sequence[Any]] = [("", "", "", c.id, c.name, 0) for c in data.categories]
    for split, image in data.images():
        targets = image.targets
        pairs = zip(targets.labels.tolist(), targets.crowd.tolist(), strict=True)
        for number, (label, crowd) in enumerate(pairs, start=1):
            category = data.categories[label]
            rows.append((split, image.name, number, category.id, category.name, int(crowd)))
    target.mkdir(parents=True, exist_ok=True)
    text = csv_text([_COLUMNS, *([escaped(v) if isinstance(v, str) else v for v in row] for row in rows)])
    (target / "objects.csv").write_bytes(text.encode())
