"""What a run learns from and what chooses its best weights: read from any format, checked, and told about.

A data set's split ``val`` chooses, or another data set, or a fifth of the images that is held out by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eachmask.data.classes import with_the_rest_ignored
from eachmask.data.dataset import Dataset
from eachmask.data.image_files import ImageFiles
from eachmask.data.joined import joined
from eachmask.data.problems import Problem
from eachmask.data.reading import check_target, read_any
from eachmask.files.text import counted
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.checks import check_path

Prepare = Callable[[Dataset[Any]], Dataset[Any]]
"""Changes a data set before anything else, for example merges its classes."""
Data = str | Path | Dataset[Any]
MAX_NAMED = 8
"""Classes that a note names."""


@dataclass(frozen=True)
class Splits:
    """Both sides, and what is to be said of them."""

    train: ImageFiles[Any]
    val: ImageFiles[Any]
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
    target: type[Any] = Instances,
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
        target: what the model learns from, of each image.

    Raises:
        UserError: data that cannot be read, or have targets of another kind or other classes; no usable image on one
            of the sides; or not one object to learn from.
    """
    if partial and not issubclass(Instances, target):
        raise UserError("--partial is for objects: in a map each pixel that is of no class is left out already")
    read = _Reader(format, prepare, target)
    own = read(data)
    images: dict[str, ImageFiles[Any]] = dict(own.splits)
    nothing = next(iter(images.values())).take([])
    chosen, how = images.pop("val", nothing), "the split val"
    others = [split for name, split in images.items() if name != "test"]
    training = images.get("train") or joined(others or [nothing])
    if val is not None:
        chosen, how = _relabeled(read(val), own.categories, _name(val), "val"), _name(val)
    elif not chosen:
        training, chosen = held_out(training, seed)
        how = "held out of them, by chance"
    for more in partial:
        part = _relabeled(with_the_rest_ignored(read(more)), own.categories, _name(more), "train")
        training = joined([training, part])
    problems = read.problems
    training, chosen = _present(training, problems), _present(chosen, problems)
    if not training or not chosen:
        raise UserError(
            f"{_name(data)} has {len(training)} usable training images and {len(chosen)} to choose the best weights "
            "by: both must be at least one (eachmask doctor says what is wrong with the others)"
        )
    sides = training, chosen
    if not training.num_objects:
        raise UserError(f"the training images of {_name(data)} show not one object: there is nothing to learn from")
    record = {"data": _name(data), "val": how, "val images": len(chosen), "problems": len(problems)}
    return Splits(*sides, (_summary(*sides, how, read.format), *doubts(*sides)), tuple(problems), record)


@dataclass
class _Reader:
    """Reads data sets and collects their problems."""

    format: str | None
    """As it was given, or else that of the first data set."""
    prepare: Prepare | None
    target: type[Any] = Instances

    def __post_init__(self) -> None:
        self.problems: list[Problem] = []
        self.given = self.format

    def __call__(self, data: Data) -> Dataset[Any]:
        if not isinstance(data, Dataset):
            check_path("data set", data)
            data, found = read_any(Path(data), self.given, target=self.target)
            self.format = self.format or found.name
        else:
            check_target(data, self.target, _name(data))
        self.problems += data.problems
        return data if self.prepare is None else self.prepare(data)


def _name(data: Data) -> str:
    return "the data set" if isinstance(data, Dataset) else str(data)


def _summary(train: ImageFiles[Any], val: ImageFiles[Any], how: str, format: str | None) -> str:
    names = [category.name for category in train.categories]
    named = ", ".join(names[:MAX_NAMED]) + (" ..." if len(names) > MAX_NAMED else "")
    images = f"{counted(len(train), 'training image')} and {counted(len(val), 'val image')} ({how})"
    return f"{images}{f', {format}' if format else ''}; {counted(len(names), 'class')}: {named}."


def doubts(train: ImageFiles[Any], val: ImageFiles[Any]) -> list[str]:
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


def held_out(images: ImageFiles[Any], seed: int) -> tuple[ImageFiles[Any], ImageFiles[Any]]:
    """The images that stay, and a fifth of them, at least one, chosen by the seed.

    Raises:
        UserError: there are not two images.
    """
    if len(images) < 2:
        raise UserError(f"{len(images)} annotated image is too few: at least one to learn from and one to choose by")
    return images.held_out(0.2, seed)


def _relabeled(other: Dataset[Any], categories: tuple[Category, ...], name: str, split: str) -> ImageFiles[Any]:
    """The images of another data set's split (or all of them), with our labels, matched by name."""
    labels = {category.name: label for label, category in enumerate(categories)}
    missing = [c.name for c in other.categories if c.name not in labels]
    if missing:
        raise UserError(f"{name} has classes that the training data lacks: {', '.join(missing[:5])}")
    exact = {(category.id, category.name): label for label, category in enumerate(categories)}
    ours = [exact.get((c.id, c.name), labels[c.name]) for c in other.categories]
    chosen: ImageFiles[Any] = other.splits.get(split) or joined(list(other.splits.values()))
    return chosen.relabeled(ours, categories)


def _present(images: ImageFiles[Any], problems: list[Problem]) -> ImageFiles[Any]:
    """Those whose image file is there; the others become problems."""
    there = [images.path(i).is_file() for i in range(len(images))]
    missing = [images.files[i] for i, is_there in enumerate(there) if not is_there]
    problems += [Problem(path, "", "the image is missing", "put it there or remove it", "image") for path in missing]
    return images if all(there) else images.take([i for i, is_there in enumerate(there) if is_there])
