"""Geometry that moves image and masks together: random scale, rotation, flip and crop in one warp."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as connected

from eachmask.data.sample import Sample
from eachmask.structures import RLE, Instances, UserError
from eachmask.structures import boxes as box_ops


@dataclass(frozen=True)
class AffineCrop:
    """Cut a random, randomly scaled, turned and mirrored window out of an image, whatever lies on it.

    Maps, mattes and prompts move by their ``warp``. Objects are warped as one label map (each pixel belongs to one
    object, so overlaps are resolved in favor of the earlier one): the cost is that of the window, whatever the number
    of objects. What leaves the window is cut off; fragments under ``min_area`` px vanish. Pixels outside the image are
    filled by reflection in image and masks alike, so that no border is learnt. Every connected part is an object of its
    own afterwards: a mirrored copy is not the same object as its original. Of objects without masks the boxes around
    the moved ones are left.
    """

    size: int = 256
    """Side of the square window, px."""
    scale: tuple[float, float] = (0.6, 1.6)
    """Range of magnification, log-uniform."""
    rotate: bool = True
    """Any angle; otherwise multiples of a quarter turn."""
    min_area: int = 8

    def __call__(self, sample: Sample[Any], rng: np.random.Generator) -> Sample[Any]:
        """Draw one window.

        Args:
            sample: image (H, W, 3), targets and what is given with it.
            rng: the only source of chance.

        Raises:
            UserError: something cannot be turned: keypoints, or a noun without ``warp``.
        """
        height, width = sample.image.shape[:2]
        matrix = self._matrix(height, width, rng)
        window = (self.size, self.size)
        image: NDArray[Any] = cv2.warpAffine(
            sample.image, matrix, window, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        given = None if sample.given is None else self._moved(sample.given, matrix)
        return Sample(image, self._moved(sample.targets, matrix), sample.path, sample.image_id, given=given)

    def _moved(self, value: Any, matrix: NDArray[np.float64]) -> Any:
        """Whatever lies on the image, in the window."""
        window = (self.size, self.size)
        if not isinstance(value, Instances):
            if not hasattr(value, "warp"):
                raise UserError(f"a {type(value).__name__} cannot be turned: give it a method warp(matrix, image_size)")
            return value.warp(matrix, window)
        if value.keypoints is not None:
            raise UserError("AffineCrop does not turn keypoints: take LargeScaleJitter and Flip for such data")
        if value.masks is None:
            return self._boxes(value, matrix)
        label = value.masks.to_label_map().astype(np.float32)  # exact up to 2^24 objects
        moved = cv2.warpAffine(label, matrix, window, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        return self._targets(moved.astype(np.int32), value)

    def _boxes(self, before: Instances, matrix: NDArray[np.float64]) -> Instances:
        """Boxes around the moved ones, cut at the window's border."""
        corners = before.boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].double() - 0.5
        moved = corners @ torch.from_numpy(matrix[:, :2]).T + torch.from_numpy(matrix[:, 2]) + 0.5
        window = (self.size, self.size)
        boxes = box_ops.clip(torch.cat([moved.amin(1), moved.amax(1)], dim=1), window).to(before.boxes)
        chosen = box_ops.area(boxes) >= self.min_area
        return replace(before, image_size=window, boxes=boxes, view=None)[chosen]

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
