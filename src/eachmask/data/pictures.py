"""The pictures of one split as training samples, annotations packed into a few arrays.

A list of Python objects grows in every data-loader process as its reference counts are touched (copy-on-write);
numpy arrays do not. 100,000 annotations are five arrays here, whatever the format they were read from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.annotated import Picture, crowd_of, labels_of, masks_of
from eachmask.data.images import read_image
from eachmask.data.sample import Sample
from eachmask.structures import RLE, Category, Instances, UserError


class PictureSamples:
    """As many samples as pictures; images are read when asked for.

    Args:
        pictures: of one split.
        categories: of the data set.
    """

    def __init__(self, pictures: Sequence[Picture], categories: tuple[Category, ...]) -> None:
        self.categories = categories
        masks = [masks_of(picture.targets) for picture in pictures]
        self._paths = np.array([str(picture.path) for picture in pictures], dtype=np.str_)
        self._sizes = np.array([m.size for m in masks], np.int64).reshape(-1, 2)
        self._first = np.cumsum([0, *(len(m) for m in masks)])
        self._counts = np.concatenate([np.zeros(0, np.uint32), *(m.counts for m in masks)])
        self._offsets = np.cumsum(np.concatenate([[0], *(np.diff(m.offsets) for m in masks)])).astype(np.int64)
        self._boxes = _joined([p.targets.boxes.numpy() for p in pictures], (0, 4), np.float32)
        self._labels = np.array([label for p in pictures for label in labels_of(p.targets)], np.int64)
        self._crowd = np.array([flag for p in pictures for flag in crowd_of(p.targets)], bool)
        self._keypoints = _keypoints(pictures)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture.

        Raises:
            UserError: the file is missing, broken or of another size than its annotations.
        """
        path = Path(str(self._paths[index]))
        targets = self.targets(index)
        image = read_image(path)
        if image.shape[:2] != targets.image_size:
            stored = read_image(path, upright=False)
            if stored.shape[:2] != targets.image_size:
                raise UserError(
                    f"{path} is {image.shape[1]} x {image.shape[0]} px, but its annotations are for "
                    f"{targets.image_size[1]} x {targets.image_size[0]} px: mend them (eachmask doctor --fix)"
                )
            image = stored  # annotated on the pixels as stored
        return Sample(image, targets, path, index)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def path(self, index: int) -> Path:
        """The picture's file."""
        return Path(str(self._paths[index]))

    def targets(self, index: int) -> Instances:
        """What is annotated in picture ``index``, without reading the image."""
        chosen = slice(int(self._first[index]), int(self._first[index + 1]))
        runs = self._offsets[chosen.start : chosen.stop + 1]
        size = (int(self._sizes[index, 0]), int(self._sizes[index, 1]))
        return Instances(
            image_size=size,
            boxes=torch.from_numpy(self._boxes[chosen].copy()),
            masks=RLE(self._counts[runs[0] : runs[-1]], runs - runs[0], size),
            labels=torch.from_numpy(self._labels[chosen].copy()),
            crowd=torch.from_numpy(self._crowd[chosen].copy()),
            keypoints=None if self._keypoints is None else torch.from_numpy(self._keypoints[chosen].copy()),
            categories=self.categories,
        )


def _joined(parts: Sequence[NDArray[Any]], empty: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(empty, dtype), *(part.astype(dtype) for part in parts)])


def _keypoints(pictures: Sequence[Picture]) -> NDArray[np.float32] | None:
    """(N, P, 3) where the set has keypoints; objects without them get points of visibility 0."""
    known = [p.targets.keypoints for p in pictures]
    num_points = max((int(k.shape[1]) for k in known if k is not None), default=0)
    if not num_points:
        return None
    parts = []
    for picture, points in zip(pictures, known, strict=True):
        part = np.zeros((len(picture.targets), num_points, 3), np.float32)
        if points is not None and points.shape[1] == num_points:
            part[:] = points.numpy()
        parts.append(part)
    return _joined(parts, (0, num_points, 3), np.float32)
