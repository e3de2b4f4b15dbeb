"""The images of one split as training samples, annotations packed into a few arrays.

A list of Python objects grows in every data-loader process as its reference counts are touched (copy-on-write);
numpy arrays do not. 100,000 annotations are five arrays here, whatever the format they were read from.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.dataset import AnnotatedImage, masks_of
from eachmask.data.images.read import read_image
from eachmask.data.sample import Sample
from eachmask.structures import RLE, Category, Instances, UserError
from eachmask.structures.rle_codec import offsets_of


class ImageSamples:
    """As many samples as images; images are read when asked for.

    Args:
        images: of one split.
        categories: of the data set.
    """

    def __init__(self, images: Sequence[AnnotatedImage], categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self._paths = np.array([str(image.path) for image in images], dtype=np.str_)
        sizes, numbers, lengths, labels = (array("q") for _ in range(4))
        counts, boxes, crowd = array("I"), array("f"), array("b")
        keypoints = []
        for image in images:  # one at a time: all unpacked together would take room for the set once more
            targets = image.targets
            masks = masks_of(targets)
            sizes.extend(masks.size)
            numbers.append(len(masks))
            counts.frombytes(masks.counts.astype(np.uint32).tobytes())
            lengths.extend(np.diff(masks.offsets).tolist())
            boxes.frombytes(targets.boxes.numpy().astype(np.float32).tobytes())
            labels.extend(targets.labels.tolist())
            crowd.extend(targets.crowd.tolist())
            keypoints.append(None if targets.keypoints is None else targets.keypoints.numpy())
        self._sizes = np.array(sizes).reshape(-1, 2)
        self._first = offsets_of(numbers)
        self._counts = np.frombuffer(counts, np.uint32)
        self._offsets = offsets_of(lengths)
        self._boxes = np.array(boxes).reshape(-1, 4)
        self._labels = np.array(labels)
        self._crowd = np.array(crowd, bool)
        self._keypoints = _joined(keypoints, numbers)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Read one image.

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

    @property
    def num_objects(self) -> int:
        """Annotated objects in all images, crowd regions left out."""
        return int((~self._crowd).sum())

    def path(self, index: int) -> Path:
        """The image's file."""
        return Path(str(self._paths[index]))

    def targets(self, index: int) -> Instances:
        """What is annotated in image ``index``, without reading the image."""
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


def _joined(known: Sequence[NDArray[np.float32] | None], numbers: Sequence[int]) -> NDArray[np.float32] | None:
    """(N, P, 3) keypoints where the set has some; objects without them get points of visibility 0.

    Args:
        known: (n, P, 3) of each image, or None.
        numbers: of objects in each image.
    """
    num_points = max((k.shape[1] for k in known if k is not None), default=0)
    if not num_points:
        return None
    joined = np.zeros((sum(numbers), num_points, 3), np.float32)
    for own, first in zip(known, offsets_of(numbers), strict=False):
        if own is not None and own.shape[1] == num_points:
            joined[first : first + len(own)] = own
    return joined
