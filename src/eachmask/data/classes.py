"""Fewer classes, or fewer annotated: what a data set becomes before a model learns from it or is measured on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from eachmask.data.builder import map_targets
from eachmask.data.dataset import Dataset
from eachmask.data.matching import match_categories
from eachmask.data.targets import instances_of, masks_of, named_categories
from eachmask.structures import RLE, Category, Instances, UserError

Merge = Literal["supercategories", "all"]
"""All classes as those above them, or as one."""


@dataclass(frozen=True)
class Classes:
    """The classes that are measured, and what else predictions may call them: merged ones by the names and ids of those
    they were merged from."""

    categories: tuple[Category, ...]
    ids: dict[int, int]
    """Category id of a results list -> label."""
    also: dict[str, int] = field(default_factory=dict)
    """Further names -> label."""
    all_one: bool = False
    """Whatever it is called is the one class."""

    @classmethod
    def of(cls, categories: Sequence[Category]) -> Classes:
        """As they are."""
        return cls(tuple(categories), {category.id: label for label, category in enumerate(categories)})

    @classmethod
    def merged(cls, data: Dataset, merge: Merge, name: str) -> tuple[Dataset, Classes]:
        """A data set with fewer classes, and what these are called.

        Args:
            name: of the data set, for the error.

        Raises:
            UserError: supercategories are wanted, and no category has one.
        """
        if merge == "supercategories" and not any(c.parent for c in data.categories):
            raise UserError(
                f"{name}: no category has a supercategory, so there is nothing to merge them by; --merge all makes "
                "them one class"
            )
        fewer = one_class(data) if merge == "all" else supercategories(data)
        place = {category.name: label for label, category in enumerate(fewer.categories)}
        labels = [0 if merge == "all" else place[c.parent or c.name] for c in data.categories]
        ids = {c.id: label for c, label in zip(data.categories, labels, strict=True)}
        also = {c.name: label for c, label in zip(data.categories, labels, strict=True)}
        return fewer, cls(fewer.categories, ids, also, merge == "all")

    def labels_of(self, known: Sequence[Category]) -> tuple[dict[int, int], list[str]]:
        """A model's label -> the label here, by name, and what to note.

        Raises:
            UserError: not one class in common.
        """
        if self.all_one:
            return dict.fromkeys(range(len(known)), 0), []
        return match_categories(known, self.categories, also=self.also)


def merged_categories(data: Dataset, merge: Callable[[Category], str]) -> Dataset:
    """The set with classes merged under new names, in the order in which the names first come.

    Args:
        merge: category -> name of the class it becomes part of.
    """
    names = [merge(category) for category in data.categories]
    categories = named_categories(names)
    place = {category.name: label for label, category in enumerate(categories)}
    return data.relabeled([place[name] for name in names], categories)


def supercategories(data: Dataset) -> Dataset:
    """The set with each class merged into the one above it, where there is one: COCO's 80 classes become 12."""
    return merged_categories(data, lambda category: category.parent or category.name)


def one_class(data: Dataset) -> Dataset:
    """The set with all classes merged into one, ``object``."""
    return merged_categories(data, lambda category: "object")


def some_classes(data: Dataset, ids: Sequence[int]) -> Dataset:
    """The set with the objects of some classes alone, by their categories' ids; every image stays."""
    kept = [label for label, category in enumerate(data.categories) if category.id in ids]
    known = tuple(data.categories[label] for label in kept)
    places = {label: place for place, label in enumerate(kept)}
    fewer = map_targets(data, lambda found: found.relabeled(places, known))
    return fewer.relabeled(range(len(known)), known)


def with_the_rest_ignored(data: Dataset) -> Dataset:
    """The set with everything that is not annotated made an ignore region: for sets that name only some classes.

    Each image gets one more object, a crowd region all over it, so that what lies there counts neither as object
    nor as background.
    """

    def ignore(targets: Instances) -> Instances:
        all_of_it = RLE.from_bitmaps(np.ones((1, *targets.image_size), bool))
        known = instances_of(masks_of(targets), targets.labels.tolist(), targets.crowd.tolist(), data.categories)
        return Instances.cat([known, instances_of(all_of_it, [0], [True], data.categories)])

    return map_targets(data, ignore)
