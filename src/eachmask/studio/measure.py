"""Annotations against what a model proposed, by the package's matching, and the table of measures."""

from __future__ import annotations

from typing import Any

from eachmask.data.formats import table
from eachmask.data.images.read import read_image
from eachmask.metrics.matching import count_in_image
from eachmask.structures import Instances, UserError
from eachmask.studio.project import Project
from eachmask.studio.schemas import MeasureOut, MeasureRow

FOUND, WELL = 0.5, 0.75
"""IoU from which on an object counts as found, and as well outlined."""


def measured(project: Project) -> MeasureOut:
    """Annotated images, compared where a model has looked; what lies between the two bounds is poorly outlined."""
    rows, objects = [], []
    by_category = {category.name: dict.fromkeys(("matched", "missed", "invented", "poor"), 0)
                   for category in project.categories}  # fmt: skip
    for index in project.annotated():
        try:
            targets, found = project.targets(index), project.proposed(index)
            objects += _objects(project, index, targets)
        except UserError:
            continue
        if found is None:
            continue
        rows.append(MeasureRow(image=index, name=project.names[index], **_counts(found, targets)))
        for label, name in enumerate(by_category):
            own = _counts(found[found.labels == label], targets[targets.labels == label])
            by_category[name] = {key: value + by_category[name][key] for key, value in own.items()}
    kinds = [{"category": name} | counts for name, counts in by_category.items() if any(counts.values())]
    return MeasureOut(rows=rows, by_category=kinds, objects=objects, unit="px")


def _counts(found: Instances, targets: Instances) -> dict[str, int]:
    targets = targets[~targets.crowd]
    loose, strict = (count_in_image(found, targets, bound) for bound in (FOUND, WELL))
    return {
        "matched": loose.true_positives,
        "missed": loose.false_negatives,
        "invented": loose.false_positives,
        "poor": max(0, loose.true_positives - strict.true_positives),
    }


def _objects(project: Project, index: int, targets: Instances) -> list[dict[str, Any]]:
    if not len(targets):
        return []
    image = read_image(project.paths[index])
    keys, names = list(project.history(index).objects), table.COLUMNS
    rows = table.rows(project.names[index], targets, image)
    return [
        dict(zip(names, row, strict=False))
        | {"image": index, "name": project.names[index], "id": key, "category": row[names.index("class")]}
        for key, row in zip(keys, rows, strict=True)
    ]
