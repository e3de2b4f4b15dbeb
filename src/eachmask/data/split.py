"""Split: the images of one part of a data set with their objects, packed into a few flat arrays.

A list of Python objects grows in every data-loader process as its reference counts are touched (copy-on-write); numpy
arrays do not. 100,000 annotations are ten arrays here, whatever the format they were read from, and pickling them to a
worker is copying these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.image_files import ImageFiles, ImageView
from eachmask.data.packed import Texts
from eachmask.structures import RLE, Category, Instances
from eachmask.structures.rle_codec import offsets_of
from eachmask.structures.runs import ranges


@dataclass(frozen=True, eq=False, repr=False)
class Split(ImageFiles[Instances]):
    """n images with N objects of R runs: a ``Samples[Instances]``. A :class:`~eachmask.data.builder.DatasetBuilder`
    makes it; an image is read when its sample is asked for."""

    first: NDArray[np.int64]
    """(n + 1,) where each image's objects begin."""
    counts: NDArray[np.uint32]
    """(R,) run lengths of all masks."""
    offsets: NDArray[np.int64]
    """(N + 1,) where each mask's runs begin."""
    boxes: NDArray[np.float32]
    """(N, 4) xyxy, px; tight where there are masks."""
    labels: NDArray[np.int64]
    """(N,) positions in ``categories``."""
    crowd: NDArray[np.bool_]
    """(N,)"""
    keypoints: NDArray[np.float32] | None = None
    """(N, P, 3) where the set has some; objects without them have points of visibility 0."""
    ids: Texts | None = None
    """(N,) what the source calls each object; None where it has no names."""
    stated: NDArray[np.float64] | None = None
    """(N, 5) x, y, width, height and area as a COCO file states them, NaN where it does not: its masks need not agree,
    and COCO's protocol measures by these."""
    entries: Texts | None = None
    """(n,) JSON: what a COCO file says of each image beside its size."""
    scores: NDArray[np.float32] | None = None
    """(N,) how sure a model was of each object, 0..1, NaN where it was not one; None where nothing was predicted. They
    are kept for those who correct predictions: what is annotated has none."""

    def __repr__(self) -> str:
        return f"Split({len(self)} images, {len(self.labels)} objects of {len(self.categories)} classes)"

    # One image ------------------------------------------------------------------------------------

    def targets(self, index: int) -> Instances:
        """What is annotated in image ``index``, without reading the image."""
        chosen, size = self._objects(index), self.image_size(index)
        runs = self.offsets[chosen.start : chosen.stop + 1]
        return Instances(
            image_size=size,
            boxes=torch.from_numpy(self.boxes[chosen].copy()),
            masks=RLE(self.counts[runs[0] : runs[-1]], runs - runs[0], size),
            labels=torch.from_numpy(self.labels[chosen].copy()),
            crowd=torch.from_numpy(self.crowd[chosen].copy()),
            keypoints=None if self.keypoints is None else torch.from_numpy(self.keypoints[chosen].copy()),
            categories=self.categories,
        )

    def stated_targets(self, index: int) -> Instances:
        """:meth:`targets` with the boxes that a COCO file states, where it does: its protocol measures by them."""
        targets, stated = self.targets(index), self.stated_of(index)
        if stated is None:
            return targets
        boxes = stated[:, :4].copy()
        usable = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
        boxes[:, 2:] += boxes[:, :2]
        boxes[~usable] = targets.boxes.numpy()[~usable]
        return replace(targets, boxes=torch.from_numpy(boxes.astype(np.float32)))

    def scores_of(self, index: int) -> NDArray[np.float32]:
        """(K,) scores of the objects of image ``index``, NaN where there are none."""
        chosen = self._objects(index)
        if self.scores is None:
            return np.full(self.num_objects_of(index), np.nan, np.float32)
        return self.scores[chosen].copy()

    def scored_targets(self, index: int) -> Instances:
        """:meth:`targets` with their scores, where all of them have one."""
        scores = self.scores_of(index)
        known = self.scores is not None and bool(np.isfinite(scores).all())
        return replace(self.targets(index), scores=torch.from_numpy(scores) if known else None)

    def num_objects_of(self, index: int) -> int:
        """Annotated objects in image ``index``, crowd regions included."""
        chosen = self._objects(index)
        return len(range(chosen.start, chosen.stop))

    def object_ids(self, index: int) -> tuple[str, ...]:
        """What the source calls each object of image ``index``; () where it has no names."""
        return () if self.ids is None else tuple(self.ids[self._objects(index)])

    def stated_of(self, index: int) -> NDArray[np.float64] | None:
        """(K, 5) x, y, width, height and area that a COCO file states of the objects of image ``index``."""
        return None if self.stated is None else self.stated[self._objects(index)]

    def fields(self, index: int) -> dict[str, Any]:
        """What else a COCO file says of image ``index``: LVIS's lists of absent and not exhaustively annotated classes,
        license, date ..."""
        return {key: value for key, value in self.entry(index).items() if key not in ("id", "file_name")}

    def images(self) -> list[AnnotatedImage]:
        """A view of each image, which unpacks what it is asked for."""
        return [AnnotatedImage(self, i) for i in range(len(self))]

    # The whole --------------------------------------------------------------------------------------

    @property
    def num_objects(self) -> int:
        """Annotated objects in all images, crowd regions left out."""
        return int((~self.crowd).sum())

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Split:
        """The chosen images, in the given order."""
        chosen = np.asarray(indices, np.int64).reshape(-1)
        numbers = np.diff(self.first)[chosen]
        objects = ranges(self.first[:-1][chosen], numbers)
        lengths = np.diff(self.offsets)[objects]
        return replace(
            self,
            names=self.names.take(chosen),
            files=self.files.take(chosen),
            numbers=self.numbers[chosen],
            sizes=self.sizes[chosen],
            first=offsets_of(numbers),
            counts=self.counts[ranges(self.offsets[:-1][objects], lengths)],
            offsets=offsets_of(lengths),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            crowd=self.crowd[objects],
            keypoints=None if self.keypoints is None else self.keypoints[objects],
            ids=None if self.ids is None else self.ids.take(objects),
            stated=None if self.stated is None else self.stated[objects],
            entries=None if self.entries is None else self.entries.take(chosen),
            scores=None if self.scores is None else self.scores[objects],
        )

    def relabeled(self, labels: Sequence[int], categories: tuple[Category, ...]) -> Split:
        """Of other classes: label k becomes ``labels[k]`` of ``categories``."""
        lookup = np.array(labels, np.int64)
        return replace(self, labels=lookup[self.labels] if len(lookup) else self.labels, categories=categories)

    def _objects(self, index: int) -> slice:
        place = range(len(self))[index]
        return slice(int(self.first[place]), int(self.first[place + 1]))


@dataclass(frozen=True, eq=False)
class AnnotatedImage(ImageView[Instances]):
    """A view of one image with its objects: ``targets`` have ``masks`` (RLE), ``labels`` and ``crowd``."""

    split: Split

    @property
    def scores(self) -> list[float | None]:
        """How sure a model was of each object, to six digits; None where it was not predicted."""
        found = self.split.scores_of(self.index).tolist()
        return [float(f"{score:.6g}") if score == score else None for score in found]

    @property
    def fields(self) -> dict[str, Any]:
        """See :meth:`Split.fields`."""
        return self.split.fields(self.index)

    def object_name(self, index: int) -> str:
        """``annotation 17``, or ``object 3`` by the place in the image."""
        ids = self.split.object_ids(self.index)
        return f"annotation {ids[index]}" if ids else f"object {index + 1}"

    def __len__(self) -> int:
        """Its objects."""
        return self.split.num_objects_of(self.index)
