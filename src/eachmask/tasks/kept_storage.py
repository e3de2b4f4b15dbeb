"""Predictions of an evaluation kept as arrays, and brought to the classes of the data by name."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, TypeVar

from eachmask.data.classes import Classes
from eachmask.data.on_demand import OnDemand
from eachmask.data.samples import Samples
from eachmask.structures import Category
from eachmask.structures.spatial import Labeled, Spatial
from eachmask.tasks.kept import Kept
from eachmask.tasks.task import Predictions, Storage

T = TypeVar("T", bound=Spatial)


def kept_storage(kept: Kept[T]) -> Storage[T]:
    """The storage of any task that says how its results become arrays."""

    def dump(result: T) -> dict[str, Any]:
        return {"size": list(result.image_size), "arrays": b64encode(kept.to_bytes(result)).decode("ascii")}

    def load(
        bodies: Sequence[dict[str, Any]], data: Samples[T], known: tuple[Category, ...], classes: Classes
    ) -> Predictions[T]:
        packed = [b64decode(body["arrays"]) for body in bodies]
        sizes = [(int(height), int(width)) for height, width in (body["size"] for body in bodies)]
        found = OnDemand(len(packed), lambda place: kept.from_bytes(packed[place], sizes[place]))
        return in_classes(found, known, classes)

    return Storage(dump, load)


def in_classes(found: Sequence[T], known: Sequence[Category], classes: Classes) -> Predictions[T]:
    """Results in the classes of the data, matched by name.

    Args:
        known: the classes that the results speak of; () where they are those of the data.

    Raises:
        UserError: not one class in common.
    """
    own = classes.categories
    if not len(found) or not isinstance(found[0], Labeled):
        return Predictions(found)
    if not known or not own or [c.name for c in known] == [c.name for c in own]:
        return Predictions(found)
    labels, notes = classes.labels_of(known)

    def relabeled(place: int) -> T:
        result = found[place]
        return result.relabeled(labels, own) if isinstance(result, Labeled) else result

    return Predictions(OnDemand(len(found), relabeled), notes)
