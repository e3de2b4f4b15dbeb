"""DatasetBuilder: what every reader fills, image by image; everything is packed at once."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.joined import joined_keypoints
from eachmask.data.packed import TextPacker
from eachmask.data.problems import Problem
from eachmask.data.split import Split
from eachmask.data.targets import masks_of
from eachmask.structures import Category, Instances, UserError
from eachmask.structures.rle_codec import offsets_of


class DatasetBuilder:
    """A data set in the making.

    Args:
        categories: its classes; those of the targets that are added do not matter.
        strict: what makes an image or an annotation unusable is an error, and not a problem to be collected.
    """

    def __init__(self, categories: tuple[Category, ...] = (), *, strict: bool = False) -> None:
        self.categories, self.strict = categories, strict
        self.category_fields: dict[int, dict[str, Any]] = {}
        """By category id, what else a COCO file says of it."""
        self.problems: list[Problem] = []
        self._splits: dict[str, _SplitBuilder] = {}

    def __len__(self) -> int:
        return sum(len(split.names) for split in self._splits.values())

    def report(self, problem: Problem) -> None:
        """Write a problem down.

        Raises:
            UserError: with its sentence, where the builder is strict and it is worse than an object without a pixel or
                a box that its mask replaces.
        """
        if self.strict and problem.severity == "error" and problem.kind not in ("empty", "degenerate box"):
            raise UserError(str(problem))
        self.problems.append(problem)

    def add_split(self, split: str) -> None:
        """A split that may stay without images."""
        self._splits.setdefault(split, _SplitBuilder())

    def add(
        self,
        split: str,
        name: str,
        path: Path,
        targets: Instances,
        *,
        object_ids: Sequence[str] = (),
        stated: NDArray[np.float64] | None = None,
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        """One more image.

        Args:
            split: ``train``, ``val`` ...; ``all`` where the format has none.
            name: relative POSIX path, unique within its split, with a suffix.
            path: the image file; it may be missing.
            targets: its objects; one without a mask gets its box. Scores say that they were predicted.
            object_ids: what the source calls each object; () where it has no names.
            stated: (N, 5) x, y, width, height and area as a COCO file states them, NaN where it does not.
            entry: what a COCO file says of the image beside its size.
        """
        self.add_split(split)
        self._splits[split].add(name, path, targets, object_ids, stated, entry)

    def build(self) -> Dataset:
        """The data set."""
        splits = {name: split.build(self.categories) for name, split in self._splits.items()}
        return Dataset(self.categories, splits, self.problems, self.category_fields)


class _SplitBuilder:
    def __init__(self) -> None:
        self.names, self._files, self._ids, self._entries = (TextPacker() for _ in range(4))
        self._image_ids, self._sizes, self._numbers, self._lengths, self._labels = (array("q") for _ in range(5))
        self._counts, self._boxes, self._crowd, self._stated = array("I"), array("f"), array("b"), array("d")
        self._scores = array("f")
        self._keypoints: list[NDArray[np.float32] | None] = []

    def add(
        self,
        name: str,
        path: Path,
        targets: Instances,
        object_ids: Sequence[str],
        stated: NDArray[np.float64] | None,
        entry: Mapping[str, Any] | None,
    ) -> None:
        masks = masks_of(targets)
        self.names.append(name)
        self._files.append(str(path))
        number = None if entry is None else entry.get("id")
        self._image_ids.append(number if type(number) is int and abs(number) < 2**63 else len(self.names) - 1)
        self._sizes.extend(masks.size)
        self._numbers.append(len(masks))
        self._counts.frombytes(masks.counts.astype(np.uint32).tobytes())
        self._lengths.frombytes(np.diff(masks.offsets).astype(np.int64).tobytes())
        self._boxes.frombytes(targets.boxes.numpy().astype(np.float32).tobytes())
        self._labels.frombytes(targets.labels.numpy().astype(np.int64).tobytes())
        self._crowd.frombytes(targets.crowd.numpy().astype(np.int8).tobytes())
        scores = np.full(len(masks), np.nan) if targets.scores is None else targets.scores.numpy()
        self._scores.frombytes(scores.astype(np.float32).tobytes())
        self._keypoints.append(None if targets.keypoints is None else targets.keypoints.numpy())
        for text in object_ids:
            self._ids.append(text)
        if stated is not None:
            self._stated.frombytes(stated.astype(np.float64).tobytes())
        if entry is not None:
            self._entries.append(json.dumps(entry, separators=(",", ":")))

    def build(self, categories: tuple[Category, ...]) -> Split:
        labels, stated = np.array(self._labels, np.int64), np.array(self._stated, np.float64).reshape(-1, 5)
        scores = np.array(self._scores, np.float32)
        return Split(
            categories=categories,
            names=self.names.packed(),
            files=self._files.packed(),
            numbers=np.array(self._image_ids, np.int64),
            sizes=np.array(self._sizes, np.int64).reshape(-1, 2),
            first=offsets_of(np.array(self._numbers, np.int64)),
            counts=np.array(self._counts, np.uint32),
            offsets=offsets_of(np.array(self._lengths, np.int64)),
            boxes=np.array(self._boxes, np.float32).reshape(-1, 4),
            labels=labels,
            crowd=np.array(self._crowd, bool),
            keypoints=joined_keypoints(self._keypoints, self._numbers),
            ids=self._ids.packed() if len(labels) and len(self._ids) == len(labels) else None,
            stated=stated if len(labels) and len(stated) == len(labels) else None,
            entries=self._entries.packed() if len(self._entries) == len(self.names) else None,
            scores=scores if np.isfinite(scores).any() else None,
        )


def map_targets(data: Dataset, change: Callable[[Instances], Instances]) -> Dataset:
    """The set with every image's objects changed."""
    builder = DatasetBuilder(data.categories)
    for name, split in data.splits.items():
        builder.add_split(name)
        for i, image in enumerate(split.images()):
            builder.add(name, image.name, image.path, change(image.targets), entry=split.entry(i))
    return Dataset(data.categories, builder.build().splits, data.problems, data.category_fields)
