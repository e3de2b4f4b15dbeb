"""Geometry that moves image and masks together: random scale, rotation, flip and crop in one warp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as connected

from eachmask.data.sample import Sample
from eachmask.structures import RLE, Instances


@dataclass(frozen=True)
class AffineCrop:
    """Cut a random, randomly scaled, turned and mirrored window out of an image.

    Objects are warped as one label map (each pixel belongs to one object, so overlaps are resolved in
    favour of the earlier one): the cost is that of the window, whatever the number of objects.
    What leaves the window is cut off; fragments under ``min_area`` px vanish. Pixels outside the
    image are filled by reflection in image and masks alike, so that no border is learnt. Every connected
    part is an object of its own afterwards: a mirrored copy is not the same object as its original.
    """

    size: int = 256
    """Side of the square window, px."""
    scale: tuple[float, float] = (0.6, 1.6)
    """Range of magnification, log-uniform."""
    rotate: bool = True
    """Any angle; otherwise multiples of a quarter turn."""
    min_area: int = 8

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw one window.

        Args:
            sample: image (H, W, 3); targets with masks.
            rng: the only source of chance.
        """
        height, width = sample.image.shape[:2]
        matrix = self._matrix(height, width, rng)
        window = (self.size, self.size)
        image: NDArray[Any] = cv2.warpAffine(
            sample.image, matrix, window, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        assert sample.targets.masks is not None
        label = sample.targets.masks.to_label_map().astype(np.float32)  # exact up to 2^24 objects
        moved = cv2.warpAffine(label, matrix, window, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        return Sample(image, self._targets(moved.astype(np.int32), sample.targets), sample.path, sample.image_id)

    def _matrix(self, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """(2, 3) from image to window coordinates."""
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        angle = rng.uniform(0, 360) if self.rotate else 90.0 * rng.integers(4)
        reach = self.size / scale / 2  # half a window in image pixels
        center = [rng.uniform(min(reach, side / 2), max(side - reach, side / 2)) for side in (width, height)]
        matrix = cv2.getRotationMatrix2D((center[0], center[1]), angle, scale).astype(np.float64)
        matrix[:, 2] += self.size / 2 - np.asarray(center)
        if rng.random() < 0.5:
            matrix[0] = -matrix[0]
            matrix[0, 2] += self.size - 1
        return matrix

    def _targets(self, label: NDArray[np.int32], before: Instances) -> Instances:
        """Label map of the window -> Instances with the labels and crowd flags of before."""
        parts: NDArray[np.int64] = connected(label, background=0, connectivity=1)  # type: ignore[no-untyped-call]
        area = np.bincount(parts.ravel())
        kept = np.flatnonzero(area >= self.min_area)
        kept = kept[kept > 0]
        owner = np.zeros(len(area), np.int64)
        owner[parts.ravel()] = label.ravel()
        masks = RLE.from_label_map(np.where(np.isin(parts, kept), parts, 0))
        index = torch.from_numpy(owner[kept] - 1)
        return Instances(
            image_size=(self.size, self.size),
            boxes=torch.from_numpy(masks.boxes()),
            masks=masks,
            labels=before.labels[index],
            crowd=before.crowd[index],
            categories=before.categories,
        )
