"""What predictions are measured on: a data set of any format, as samples with their classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from eachmask.data.classes import Classes, Merge
from eachmask.data.dataset import Dataset
from eachmask.data.formats.coco_fields import whole_number
from eachmask.data.formats.coco_read import read_coco
from eachmask.data.formats.coco_write import write_coco
from eachmask.data.image_files import ImageFiles
from eachmask.data.on_demand import OnDemand
from eachmask.data.problems import Problem
from eachmask.data.reading import check_target, detect_format, read_any
from eachmask.data.samples import Samples
from eachmask.data.split import Split
from eachmask.data.stated import StatedTargets
from eachmask.evaluation.gallery import Images
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances, UserError
from eachmask.structures.checks import kind_of
from eachmask.tasks.kept_storage import kept_storage
from eachmask.tasks.prediction_files import read_prediction_files
from eachmask.tasks.task import Storage, Task

MAX_SAID = 5
"""Problems of the data that are said one by one."""
MAX_DROPPED = 20
"""Annotations left out that are named in the report."""


@dataclass(frozen=True)
class Source:
    """Samples of one kind of target."""

    name: str
    samples: Samples[Any]
    classes: Classes
    notes: tuple[str, ...] = ()
    original: tuple[int, ...] | None = None
    """Where each of the samples was in the data set; None: they are as they came."""

    def targets(self) -> Sequence[Any]:
        """One for each image; of a COCO file with what it states, of a set of files when it is asked for."""
        if isinstance(self.samples, Split):
            return StatedTargets(self.samples, range(len(self.samples)))
        if isinstance(self.samples, ImageFiles):
            return OnDemand(len(self.samples), self.samples.targets)
        known = getattr(self.samples, "targets", lambda i: self.samples[i].targets)  # without reading, where it can
        return [known(i) for i in range(len(self.samples))]

    def storage(self, task: Task[Any]) -> Storage[Any] | None:
        """How predictions for these samples are kept; None: in memory."""
        if isinstance(self.samples, Split) and task.storage is not None:
            return task.storage
        if task.kept is None or not isinstance(self.samples, ImageFiles):
            return None
        kept, form = kept_storage(task.kept), task.files
        return kept if form is None else replace(kept, read=partial(read_prediction_files, form))

    def images(self) -> Images:
        """The images, by the names that the data set gives them."""
        return Images(lambda i: self.samples[i].image, self.file_name)

    def file_name(self, index: int) -> str:
        """What the data set calls an image."""
        if isinstance(self.samples, ImageFiles):
            return self.samples.file_name(index)
        return self.samples[index].path.name or self.title(index)

    def title(self, index: int) -> str:
        """What an image is called where it may be impossible to read; unique in the data set."""
        if isinstance(self.samples, ImageFiles):
            return f"{self.samples.file_name(index)} (image {self.samples.image_id(index)})"
        return f"image {index + 1}"

    def without(self, places: set[int]) -> Source:
        """Without some images."""
        kept = [i for i in range(len(self.samples)) if i not in places]
        if not places:
            return self
        samples = (
            self.samples.take(kept)
            if isinstance(self.samples, ImageFiles)
            else cast(Samples[Any], _Chosen(self.samples, kept))
        )
        return replace(self, samples=samples)

    def in_order(self, values: Sequence[Any]) -> list[Any]:
        """Values in the data set's order -> in that of the samples."""
        return list(values) if self.original is None else [values[i] for i in self.original]


def open_source(
    data: str | Path | Dataset[Any] | Samples[Any],
    split: str,
    images: Path | None,
    merge: Merge | None,
    say: Callable[[str], None],
    progress: Progress = no_progress,
    target: type[Any] = Instances,
) -> Source:
    """The images of one split, in the order of their ids: so COCO's tools break ties of scores.

    Args:
        data: file or folder in any format, a data set that was read, or samples of any target.
        split: the part to measure on; all of it where it has no parts.
        images: folder of the images, where they are not where the data say.
        merge: measure fewer classes.
        say: told what is odd about the data, a sentence at a time.
        target: what the task predicts of each image.

    Raises:
        UserError: nothing that can be read, targets of another kind, no such split, no images, or no classes to merge.
    """
    if not isinstance(data, str | Path | Dataset):
        if not (hasattr(data, "categories") and hasattr(data, "__getitem__")):
            raise UserError(f"--data must be a path, a data set or samples, not {kind_of(data)}")
        if merge is not None:
            raise UserError("--merge is for objects: these are samples of other targets")
        return Source("the data set", data, Classes.of(data.categories))
    read, name, strict = _read(data, split, images, progress, target)
    if not strict:
        _say(read.problems, say)
    chosen = _chosen(read, split, data)
    part: Dataset[Any] = Dataset(read.categories, {split: chosen})
    classes = Classes.of(read.categories)
    if merge is not None:
        part, classes = Classes.merged(part, merge, name)
    samples = _numbered(part.splits[split])
    if not len(samples):
        raise UserError(f"{name} has no images to measure on")
    if isinstance(data, Dataset):
        check_target(part, target, name)
    order = _by_id(samples)
    notes = _notes(samples, read.problems, exact=strict)
    return Source(name, samples.take(order), classes, tuple(notes), tuple(order))


def _read(
    data: str | Path | Dataset[Any], split: str, images: Path | None, progress: Progress, target: type[Any]
) -> tuple[Dataset[Any], str, bool]:
    """The data set, its name, and whether it was read strictly: COCO files are as their makers meant them, or are not
    measured at all."""
    if isinstance(data, Dataset):
        return data, "the data set", False
    path = Path(data)
    if not path.exists():
        raise UserError(f"{path} does not exist: --data must be an annotation file or a data set's folder")
    ready, objects = path / f"instances_{split}.json", issubclass(Instances, target)
    if objects and path.is_dir() and ready.is_file():
        found = read_coco(ready, progress, images=images or path / "images" / split, strict=True)
        return found, ready.name, True
    if objects and path.is_file() and detect_format(path).name == "coco":
        return read_coco(path, progress, images=images or path.parent, strict=True), path.name, True
    found, form = read_any(path, None, progress, images, target)
    return found, f"{path.name or path}, {form.name}", False


def _chosen(data: Dataset[Any], split: str, source: str | Path | Dataset[Any]) -> ImageFiles[Any]:
    """The split of that name; the only one of a file, or of a data set without parts."""
    splits: dict[str, ImageFiles[Any]] = data.splits
    if split in splits:
        return splits[split]
    is_file = not isinstance(source, Dataset) and Path(source).is_file()
    if len(splits) == 1 and (is_file or set(splits) <= {"all", "default"}):
        return next(iter(splits.values()))
    name = "the data set" if isinstance(source, Dataset) else source
    raise UserError(f"{name} has no split {split!r}: choose --split {' or '.join(splits)}")


def _numbered(split: ImageFiles[Any]) -> ImageFiles[Any]:
    """Images that no COCO file has numbered have the ids 1, 2, ..."""
    return (
        split
        if isinstance(split, Split) and split.entries is not None
        else replace(split, numbers=np.arange(1, len(split) + 1))
    )


def _by_id(split: ImageFiles[Any]) -> list[int]:
    ids = [split.image_id(i) for i in range(len(split))]
    key = int if all(whole_number(i) is not None for i in ids) else str
    return sorted(range(len(ids)), key=lambda i: key(ids[i]))


def _say(problems: Sequence[Problem], say: Callable[[str], None]) -> None:
    for problem in problems[:MAX_SAID]:
        say(f"{problem.severity}: {problem}")
    if len(problems) > MAX_SAID:
        say(f"... and {len(problems) - MAX_SAID} more; eachmask doctor names them all")


def _notes(split: ImageFiles[Any], problems: Sequence[Problem], exact: bool) -> list[str]:
    """What was filled in where the data say less than COCO's protocol needs, and what was left out."""
    if not isinstance(split, Split):
        return []
    notes, stated = [], split.stated
    if stated is not None:
        columns = {"area": stated[:, 4:], "bbox": stated[:, :4]}
        missing = [name for name, values in columns.items() if np.isnan(values).any()]
        if missing:
            notes.append(f"some annotations have no {' and no '.join(missing)}: taken from the masks")
        if (stated[:, 2:4] <= 0).any():
            notes.append("some annotations have a bbox without width or height: taken from the masks")
    ids = [] if split.ids is None or split.entries is None else list(split.ids)
    if len(set(ids)) < len(ids) or not all(own.isdecimal() for own in ids):
        notes.append("some annotations have no id of their own that is a number: numbered anew")
    boxed = sum(problem.count for problem in problems if problem.kind == "box only")
    if boxed:
        total = len(split.labels)
        some = f"{boxed} of {total} annotations" if exact else "some annotations"
        which = "the annotations" if boxed >= total else some
        notes.append(f"{which} have no mask: where masks are measured, each is its whole box")
    if exact:
        empty = [problem for problem in problems if problem.kind == "empty"]
        notes += [f"left out: {problem.annotation} covers no pixel" for problem in empty[:MAX_DROPPED]]
    return notes


class _Chosen:
    """Some of a set's samples."""

    def __init__(self, samples: Samples[Any], places: Sequence[int]) -> None:
        self._samples, self._places = samples, places

    @property
    def categories(self) -> Any:
        return self._samples.categories

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        return self._samples[self._places[index]]


def write_annotations(source: Source, path: Path) -> None:
    """The objects of a source as a COCO file, whose ids a list of predictions speaks of."""
    assert isinstance(source.samples, Split)
    split = source.samples
    rows = [(split.names[i], split.targets(i)) for i in range(len(split))]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_coco(path, rows, info={"description": source.name})
