"""Annotations against what a model proposed, by the package's matching, and the table of measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.formats import table
from eachmask.data.images.pixel_size import pixel_size
from eachmask.metrics.coco_matches import AREAS
from eachmask.metrics.matching import matched_pairs
from eachmask.structures import Instances, UserError
from eachmask.studio.objects import instances_of
from eachmask.studio.project import Project
from eachmask.studio.schemas import CheckOut, MeasureOut, MeasureRow

FOUND, WELL = 0.5, 0.75
"""IoU from which on an object counts as found, and as well outlined."""
KINDS = ("matched", "missed", "invented", "poor")
SIZES = ("small", "medium", "large")
"""COCO's: below 32 x 32 px, below 96 x 96 px, and the others."""
Areas = dict[str, NDArray[np.int64]]
"""For each of ``KINDS`` the areas of its objects, px; of what is invented those of the proposals."""
Row = tuple[str | int | float, ...]


@dataclass(frozen=True)
class Measured:
    """One image."""

    revision: int
    rows: list[Row]
    """Of the table, one for each object."""
    pixel_size: float | None
    """Micrometers."""
    areas: Areas | None
    """Compared without looking at classes. None: no model has looked."""
    by_label: dict[int, Areas]
    """Compared within each class."""


class Measures:
    """Measures of all annotated images; an image is read and measured again only once it was changed.

    Args:
        pixel_size: micrometers, where an image's file does not say it.
    """

    def __init__(self, project: Project, pixel_size: float | None = None) -> None:
        self.project, self.pixel_size = project, pixel_size
        self._known: dict[int, Measured] = {}

    def all(self) -> dict[int, Measured]:
        """By the image's place; broken images are left out."""
        found = {}
        for index in self.project.annotated():
            try:
                found[index] = self._of(index)
            except UserError:
                continue
        return found

    def _of(self, index: int) -> Measured:
        revision = self.project.history(index).revision
        known = self._known.get(index)
        if known is None or known.revision != revision:
            known = self._known[index] = self._measure(index, revision)
        return known

    def _measure(self, index: int, revision: int) -> Measured:
        project = self.project
        item, targets, found = project.item(index), project.targets(index), project.proposed(index)
        rows = table.rows(project.names[index], targets, item.seen()) if len(targets) else []
        size = pixel_size(item.path) or self.pixel_size
        if found is None:
            return Measured(revision, rows, size, None, {})
        labels = {*targets.labels.tolist(), *found.labels.tolist()}
        by_label = {k: _compared(found[found.labels == k], targets[targets.labels == k]) for k in sorted(labels)}
        return Measured(revision, rows, size, _compared(found, targets), by_label)

    def out(self) -> MeasureOut:
        """As the page gets it: annotated images, compared where a model has looked."""
        names, every = self.project.names, self.all()
        compared = {index: one.areas for index, one in every.items() if one.areas is not None}
        rows = [MeasureRow(image=i, name=names[i], **_counts([areas])) for i, areas in compared.items()]
        sized = bool(every) and all(one.pixel_size is not None for one in every.values())
        objects = [row for index, one in every.items() for row in self._objects(index, one)]
        unit = "µm" if sized else "px"
        by_category, by_size = self._by_category(every), _by_size(list(compared.values()))
        return MeasureOut(rows=rows, by_category=by_category, by_size=by_size, objects=objects, unit=unit)

    def _by_category(self, every: dict[int, Measured]) -> list[dict[str, Any]]:
        rows = []
        for label, category in enumerate(self.project.categories):
            counts = _counts([one.by_label[label] for one in every.values() if label in one.by_label])
            rows += [{"category": category.name} | counts] if any(counts.values()) else []
        return rows

    def _objects(self, index: int, one: Measured) -> list[dict[str, Any]]:
        keys, columns = list(self.project.history(index).objects), table.COLUMNS
        found = []
        for key, row in zip(keys, one.rows, strict=True):
            said: dict[str, Any] = dict(zip(columns, row, strict=False))
            head = {"image": index, "name": said.pop("image"), "id": key, "category": said.pop("class")}
            if one.pixel_size is not None:
                units = table.in_micrometers(str(said["area"]), str(said["perimeter"]), one.pixel_size)
                said |= dict(zip(table.UNIT_COLUMNS, map(float, units), strict=True))
            found.append(head | {name: value for name, value in said.items() if name != "id"})
        return found

    def csv(self) -> str:
        """The table of all objects."""
        columns = table.columns(self.project.categories, True)
        every = self.all().values()
        sized = any(one.pixel_size is not None for one in every)
        parts: list[tuple[str, float | None]] = [(table.to_csv([], True, columns), None)]
        parts += [(table.to_csv(one.rows, False, columns), one.pixel_size) for one in every]
        return "".join(table.with_units(text, size, columns) if sized else text for text, size in parts)


def checked(project: Project, index: int) -> CheckOut:
    """Objects that lie on a larger one, and proposals that lie where nothing is annotated; from an IoU of 0.5 on.

    Raises:
        UserError: the image is broken.
    """
    history, size = project.history(index), project.size(index)
    kinds = (sorted(here.values(), key=lambda one: one.id) for here in (history.objects, history.proposals))
    objects, proposals = ([one for one in kind if not one.crowd] for kind in kinds)
    own, offered = (instances_of(kind, size, project.categories).masks for kind in (objects, proposals))
    assert own is not None and offered is not None
    overlap, area = np.triu(own.iou(own), 1), own.area()
    first, second = np.nonzero(overlap >= FOUND)
    smaller = {objects[i if area[i] < area[j] else j].id for i, j in zip(first, second, strict=True)}
    covered = offered.iou(own).max(1, initial=0) >= FOUND
    return CheckOut(doubled=sorted(smaller), missed=[p.id for p, c in zip(proposals, covered, strict=True) if not c])


def _compared(found: Instances, targets: Instances) -> Areas:
    """A match whose IoU lies between the two bounds is poorly outlined."""
    targets = targets[~targets.crowd]
    assert found.masks is not None and targets.masks is not None
    iou, areas = found.masks.iou(targets.masks), targets.masks.area()
    proposals, objects = matched_pairs(iou, FOUND)
    return {
        "matched": areas[objects],
        "missed": np.delete(areas, objects),
        "invented": np.delete(found.masks.area(), proposals),
        "poor": areas[objects][iou[proposals, objects] < WELL],
    }


def _counts(images: Sequence[Areas]) -> dict[str, int]:
    return {kind: sum(len(areas[kind]) for areas in images) for kind in KINDS}


def _by_size(images: Sequence[Areas]) -> list[dict[str, Any]]:
    """Those of ``SIZES`` that there are."""
    bounds = [high for _, high in AREAS[1:-1]]
    rows = []
    for place, size in enumerate(SIZES):
        counts = _counts([{k: areas[k][np.digitize(areas[k], bounds) == place] for k in KINDS} for areas in images])
        rows += [{"size": size} | counts] if any(counts.values()) else []
    return rows
