"""Fewer classes, or fewer annotated: what a data set becomes before a model learns from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eachmask.data.builder import map_targets
from eachmask.data.dataset import Dataset
from eachmask.data.targets import instances_of, masks_of, named_categories
from eachmask.structures import RLE, Category, Instances


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
