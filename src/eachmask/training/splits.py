"""What a run learns from and what chooses its best weights: read from any format, checked, and told about.

A data set's split ``val`` chooses, or another data set, or a fifth of the images that is held out by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eachmask.data.convert import read_any
from eachmask.data.dataset import AnnotatedImage, AnnotatedSet, Problem, with_the_rest_ignored
from eachmask.data.samples import ImageSamples
from eachmask.structures import Category, UserError

Prepare = Callable[[AnnotatedSet], AnnotatedSet]
"""Changes a data set before anything else, for example merges its classes."""
Data = str | Path | AnnotatedSet
MAX_NAMED = 8
"""Classes that a note names."""


@dataclass(frozen=True)
class Splits:
    """Both sides, and what is to be said of them."""

    train: ImageSamples
    val: ImageSamples
    notes: tuple[str, ...]
    """Sentences for whoever started the run, doubts among them."""
    problems: tuple[Problem, ...]
    """What could not be used."""
    record: dict[str, Any]
    """For the run's record, JSON-ready."""


def read_splits(
    data: Data,
    val: Data | None = None,
    partial: Sequence[Data] = (),
    *,
    format: str | None = None,
    prepare: Prepare | None = None,
    seed: int = 0,
) -> Splits:
    """Training and val images.

    Args:
        data: folder or annotation file in any format that can be read, or a data set that was read already.
        val: another one that chooses the best weights; by default the split ``val``, or else a fifth of the images.
        partial: more training data in which only some of the classes are annotated: whatever else is in their images
            counts neither as object nor as background.
        format: of the annotations, where it is not to be found out.
        prepare: changes each data set first.
        seed: draws the images that are held out.

    Raises:
        UserError: data that cannot be read or have other classes, no usable image on one of the sides, or not one
            object to learn from.
    """
    read = _Reader(format, prepare)
    own = read(data)
    images = {name: list(split) for name, split in own.splits.items()}
    chosen, how = images.pop("val", []), "the split val"
    training = images.get("train") or [image for name, split in images.items() if name != "test" for image in split]
    if val is not None:
        chosen, how = _relabeled(read(val), own.categories, _name(val), "val"), _name(val)
    elif not chosen:
        training, chosen = held_out(training, seed)
        how = "held out of them, by chance"
    for more in partial:
        training += _relabeled(with_the_rest_ignored(read(more)), own.categories, _name(more), "train")
    problems = read.problems
    training, chosen = _present(training, problems), _present(chosen, problems)
    if not training or not chosen:
        raise UserError(
            f"{_name(data)} has {len(training)} usable training images and {len(chosen)} to choose the best weights "
            "by: both must be at least one (eachmask doctor says what is wrong with the others)"
        )
    sides = ImageSamples(training, own.categories), ImageSamples(chosen, own.categories)
    if not sides[0].num_objects:
        raise UserError(f"the training images of {_name(data)} show not one object: there is nothing to learn from")
    record = {"data": _name(data), "val": how, "val images": len(chosen), "problems": len(problems)}
    return Splits(*sides, (_summary(*sides, how, read.format), *doubts(*sides)), tuple(problems), record)


@dataclass
class _Reader:
    """Reads data sets and collects their problems."""

    format: str | None
    """As it was given, or else that of the first data set."""
    prepare: Prepare | None

    def __post_init__(self) -> None:
        self.problems: list[Problem] = []
        self.given = self.format

    def __call__(self, data: Data) -> AnnotatedSet:
        if not isinstance(data, AnnotatedSet):
            data, found = read_any(Path(data), self.given)
            self.format = self.format or found.name
        self.problems += data.problems
        return data if self.prepare is None else self.prepare(data)


def _name(data: Data) -> str:
    return "the data set" if isinstance(data, AnnotatedSet) else str(data)


def _summary(train: ImageSamples, val: ImageSamples, how: str, format: str | None) -> str:
    names = [category.name for category in train.categories]
    named = ", ".join(names[:MAX_NAMED]) + (" ..." if len(names) > MAX_NAMED else "")
    images = f"{len(train)} training images and {len(val)} val images ({how})"
    return f"{images}{f', {format}' if format else ''}; {len(names)} classes: {named}."


def doubts(train: ImageSamples, val: ImageSamples) -> list[str]:
    """What makes the scores worth less than they look."""
    notes = []
    known = {train.path(i).resolve() for i in range(len(train))}
    shared = sum(val.path(i).resolve() in known for i in range(len(val)))
    if shared:
        notes.append(
            f"Warning: {shared} of the {len(val)} val images are training images too: the scores on them say nothing "
            "about other images."
        )
    if not val.num_objects:
        notes.append("Warning: the val images show not one object, so all scores are 0: give others with --val.")
    names = [category.name for category in train.categories]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        notes.append(f"Warning: several classes have the name {', '.join(doubled)}: nobody can tell them apart.")
    return notes


def held_out(images: Sequence[AnnotatedImage], seed: int) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """The images that stay, and a fifth of them, at least one, drawn by the seed.

    Raises:
        UserError: there are not two images.
    """
    if len(images) < 2:
        raise UserError(f"{len(images)} annotated image is too few: at least one to learn from and one to choose by")
    number = max(1, len(images) // 5)
    drawn = set(np.random.default_rng([seed, 4]).permutation(len(images))[:number].tolist())
    kept = [image for i, image in enumerate(images) if i not in drawn]
    return kept, [image for i, image in enumerate(images) if i in drawn]


def _relabeled(other: AnnotatedSet, categories: tuple[Category, ...], name: str, split: str) -> list[AnnotatedImage]:
    """The images of another data set's split (or all of them), with our labels, matched by name."""
    labels = {category.name: label for label, category in enumerate(categories)}
    missing = [c.name for c in other.categories if c.name not in labels]
    if missing:
        raise UserError(f"{name} has classes that the training data lacks: {', '.join(missing[:5])}")
    exact = {(category.id, category.name): label for label, category in enumerate(categories)}
    lookup = torch.tensor([exact.get((c.id, c.name), labels[c.name]) for c in other.categories], dtype=torch.int64)
    chosen = other.splits.get(split) or [image for images in other.splits.values() for image in images]
    return [_with_labels(image, lookup, categories) for image in chosen]


def _with_labels(image: AnnotatedImage, lookup: torch.Tensor, categories: tuple[Category, ...]) -> AnnotatedImage:
    targets = image.targets
    return replace(image, targets=replace(targets, labels=lookup[targets.labels], categories=categories))


def _present(images: Sequence[AnnotatedImage], problems: list[Problem]) -> list[AnnotatedImage]:
    """Those whose image file is there; the others become problems."""
    there = [image.path.is_file() for image in images]
    missing = [image.path for image, is_there in zip(images, there, strict=True) if not is_there]
    problems += [Problem(str(p), "", "the image is missing", "put it there or remove it", "image") for p in missing]
    return [image for image, is_there in zip(images, there, strict=True) if is_there]
