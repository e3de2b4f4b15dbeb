"""Prompts that people might have given for objects: what interactive models learn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.ops.clicks import random_place
from eachmask.structures import RLE, Instances, Prompts

Bits = NDArray[np.bool_]


@dataclass
class _Said:
    """Prompts of the objects so far."""

    points: list[tuple[float, float]] = field(default_factory=list)
    signs: list[bool] = field(default_factory=list)
    point_objects: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    box_objects: list[int] = field(default_factory=list)
    masks: list[Bits] = field(default_factory=list)
    mask_objects: list[int] = field(default_factory=list)

    def click(self, number: int, point: tuple[float, float], sign: bool = True) -> None:
        self.points.append(point)
        self.signs.append(sign)
        self.point_objects.append(number)


@dataclass(frozen=True)
class PromptSampler:
    """Chooses some objects and samples what a user might say of each: a click, a box, a rough mask, or two of these. It
    gives those objects, in the order in which the prompts number them, and the prompts.

    >>> mask = np.zeros((1, 20, 20), bool)
    >>> mask[0, 5:15, 5:15] = True
    >>> target = Instances((20, 20), torch.tensor([[5.0, 5, 15, 15]]), RLE.from_bitmaps(mask))
    >>> only_clicks = PromptSampler(chances=(1, 0, 0, 0, 0))
    >>> objects, prompts = only_clicks(target, np.random.default_rng(0))
    >>> len(objects), prompts.points.shape, prompts.boxes.shape
    (1, torch.Size([1, 2]), torch.Size([0, 4]))
    """

    most: int = 5
    """Objects of an image."""
    min_area: int = 40
    """Objects of fewer pixels are not asked about."""
    chances: tuple[float, float, float, float, float] = (0.52, 0.22, 0.08, 0.08, 0.1)
    """Of a click; a box; both; a click on the object and one beside it; a rough mask, half of them with a click."""
    jitter: float = 0.08
    """Largest error of a box's side, as a share of its length."""

    def __call__(self, targets: Instances, rng: np.random.Generator) -> tuple[Instances, Prompts]:
        """The objects that are asked about, and what is said of them; where there are none, an object without a pixel
        and one click that means nothing."""
        size = targets.image_size
        areas = targets.gt_masks.area()
        able = np.flatnonzero(~targets.crowd.numpy() & (areas >= self.min_area))
        if not len(able):
            nothing = Instances(size, torch.zeros(1, 4), RLE.from_bitmaps(np.zeros((1, *size), bool)))
            point = torch.tensor([[rng.uniform(0, size[1]), rng.uniform(0, size[0])]])
            return nothing, Prompts(size, points=point)
        own = targets[np.sort(rng.permutation(able)[: self.most])]
        said = _Said()
        for number, mask in enumerate(np.ascontiguousarray(own.gt_masks.to_rle().decode())):
            self._say(said, number, mask, rng)
        values: dict[str, Any] = vars(said) | {"masks": _rle(said.masks, size)}
        return own, Prompts(size, num_objects=len(own), **values)

    def _say(self, said: _Said, number: int, mask: Bits, rng: np.random.Generator) -> None:
        kind = int(rng.choice(5, p=self.chances))
        if kind in (0, 2, 3) or (kind == 4 and rng.random() < 0.5):
            said.click(number, random_place(mask, rng))
        if kind in (1, 2):
            said.boxes.append(rough_box(mask, rng, self.jitter))
            said.box_objects.append(number)
        if kind == 3:
            beside = near_it(mask, rng) & ~mask
            if beside.any():
                said.click(number, random_place(beside, rng, 0.1, 0.0), False)
        if kind == 4:
            said.masks.append(rough_mask(mask, rng))
            said.mask_objects.append(number)


def box_of(mask: Bits) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of a bitmap (H, W) that is not empty.

    >>> mask = np.zeros((8, 8), bool)
    >>> mask[2:5, 1:4] = True
    >>> box_of(mask)
    (1, 2, 4, 5)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def rough_box(mask: Bits, rng: np.random.Generator, jitter: float) -> list[float]:
    """The box of a bitmap (H, W), each side up to ``jitter`` of its length and one pixel off.

    >>> mask = np.zeros((100, 100), bool)
    >>> mask[20:80, 20:80] = True
    >>> x1, y1, x2, y2 = rough_box(mask, np.random.default_rng(0), jitter=0.1)
    >>> all(abs(side - 20) <= 7 for side in (x1, y1))
    True
    """
    x1, y1, x2, y2 = box_of(mask)
    reach = np.array([x2 - x1, y2 - y1] * 2) * jitter + 1
    x1, y1, x2, y2 = np.array([x1, y1, x2, y2]) + rng.uniform(-1, 1, 4) * rng.random() * reach
    x1, y1 = min(max(x1, 0), mask.shape[1] - 2), min(max(y1, 0), mask.shape[0] - 2)
    return [float(x1), float(y1), float(max(x2, x1 + 1)), float(max(y2, y1 + 1))]


def near_it(mask: Bits, rng: np.random.Generator) -> Bits:
    """The box of a bitmap (H, W), up to twice as large.

    >>> mask = np.zeros((100, 100), bool)
    >>> mask[40:60, 40:60] = True
    >>> around = near_it(mask, np.random.default_rng(0))
    >>> bool(around[mask].all()), bool(around.sum() <= 40 * 40)
    (True, True)
    """
    x1, y1, x2, y2 = box_of(mask)
    dx, dy = (max(2, round(side * rng.uniform(0.1, 0.5))) for side in (x2 - x1, y2 - y1))
    result = np.zeros_like(mask)
    result[max(0, y1 - dy) : y2 + dy, max(0, x1 - dx) : x2 + dx] = True
    return result


def rough_mask(mask: Bits, rng: np.random.Generator) -> Bits:
    """A bitmap (H, W) as a hasty hand draws it: moved, grown or shrunk, now and then only an ellipse; never empty.

    >>> mask = np.zeros((100, 100), bool)
    >>> mask[30:70, 30:70] = True
    >>> rough = rough_mask(mask, np.random.default_rng(0))
    >>> rough.shape, bool(rough.any())
    ((100, 100), True)
    """
    x1, y1, x2, y2 = box_of(mask)
    side = float(np.sqrt((x2 - x1) * (y2 - y1)))
    drawn: NDArray[Any] = np.ascontiguousarray(mask, np.uint8)
    if rng.random() < 0.3:
        drawn = np.zeros(mask.shape, np.uint8)
        center, axes = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) * 0.8, (y2 - y1) * 0.8)
        cv2.ellipse(drawn, (center, axes, float(rng.uniform(-10, 10))), 1, cv2.FILLED)
    radius = max(1, round(side * rng.uniform(0.01, 0.12)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    drawn = (cv2.dilate if rng.random() < 0.5 else cv2.erode)(drawn, disc)
    dx, dy = rng.uniform(-0.08, 0.08, 2) * (x2 - x1, y2 - y1)
    moved = cv2.warpAffine(drawn, np.array([[1, 0, dx], [0, 1, dy]]), mask.shape[::-1], flags=cv2.INTER_NEAREST)
    return moved.astype(bool) if moved.any() else mask


def _rle(masks: list[Bits], size: tuple[int, int]) -> RLE | None:
    return RLE.from_bitmaps(np.stack(masks)) if masks else None
