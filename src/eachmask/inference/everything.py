"""Everything in an image, by asking a promptable network about points on a grid.

Kirillov et al., "Segment Anything", 2023, arXiv 2304.02643, section 5. The numbers are those of the authors' automatic
mask generator; the way there differs. What a mask is worth is known before it is drawn, and how stable it is nearly so
from its coarse logits; only what passes both is painted, strip by strip, into runs. Nothing of the size objects x
height x width ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.accel.lazy_dynamo import torchvision
from eachmask.ops.automatic_masks import (
    Crop,
    crop_windows,
    grid_sides,
    near_crop_edge,
    point_grid,
    without_small_regions,
)
from eachmask.structures import RLE, Instances, Masks
from eachmask.structures.logit_masks import paint
from eachmask.structures.soft_masks import Canvas

Image = NDArray[Any]

ROUGH_MARGIN = 0.1
"""The coarse logits' own stability is this close to that of the pixels: what is less stable by more goes undrawn."""


class Answers(NamedTuple):
    """What points of one batch mean: K masks that are thought to be good enough."""

    points: Tensor  # (K,) int64, index of the point
    logits: Tensor  # (K, h, w)
    ious: Tensor  # (K,) predicted
    canvas: Canvas  # from cells to pixels of the crop


Asking = Callable[[NDArray[np.float64], float], Answers]
"""(points (P, 2) in pixels of the crop, least predicted IoU) -> answers; a least of 0 asks for all."""


@dataclass(frozen=True)
class EverythingConfig:
    """How everything is looked for; the defaults are the authors'."""

    points_per_side: int = 32
    points_per_batch: int = 16
    """Points that are asked about together; memory grows with it, the results stay."""
    iou_threshold: float = 0.88
    """Masks are predicted to be better than this; 0: all are kept."""
    stability_threshold: float = 0.95
    """Of the pixels above -offset, at least this share is above +offset; 0: all are kept."""
    stability_offset: float = 1.0
    nms_threshold: float = 0.7
    """Of two boxes of one crop that overlap more, the one of lower predicted IoU goes."""
    crop_layers: int = 0
    """Layers of crops besides the whole image: 4 crops, then 16 ..."""
    crop_nms_threshold: float = 0.7
    """As ``nms_threshold``, among crops: what was found in smaller ones stays."""
    crop_overlap: float = 512 / 1500
    crop_points_factor: int = 1
    """Points per side are divided by this from layer to layer."""
    min_region_area: int = 0
    """Holes and islands of fewer pixels vanish."""


class Everything(NamedTuple):
    """N masks, best first within a crop."""

    masks: RLE
    boxes: NDArray[np.int64]  # (N, 4) xyxy of the first and last pixels, which both belong to the object
    ious: NDArray[np.float32]  # (N,) predicted
    stability: NDArray[np.float32]  # (N,)
    points: NDArray[np.float64]  # (N, 2) xy of the point that was asked about, px of the image
    crops: NDArray[np.int64]  # (N, 4) xyxy of the crop

    def take(self, index: Any) -> Everything:
        """Those with these numbers."""
        return Everything(*(column[index] for column in self))  # type: ignore[arg-type]

    @staticmethod
    def cat(parts: list[Everything]) -> Everything:
        """All of them, one after the other."""
        masks, *columns = zip(*parts, strict=True)
        return Everything(Masks.cat(masks), *(np.concatenate(column) for column in columns))

    def instances(self) -> Instances:
        """As users get them, the best first."""
        scores = torch.from_numpy(self.ious).float().clamp(0, 1)
        boxes = torch.from_numpy(self.masks.boxes())
        found = Instances(self.masks.size, boxes, self.masks, scores=scores)
        return found[scores.argsort(descending=True, stable=True)]


def everything(image: Image, look: Callable[[Image], Asking], config: EverythingConfig) -> Everything:
    """All masks of an image.

    Args:
        image: (H, W, 3).
        look: at a crop (h, w, 3); the result answers points on it.
    """
    size = (int(image.shape[0]), int(image.shape[1]))
    crops = crop_windows(size, config.crop_layers, config.crop_overlap)
    sides = grid_sides(config.points_per_side, config.crop_layers, config.crop_points_factor)
    parts = []
    for crop in crops:
        x1, y1, x2, y2 = crop.box
        asking = look(np.ascontiguousarray(image[y1:y2, x1:x2]))
        grid = point_grid(sides[crop.layer]) * np.array([x2 - x1, y2 - y1])
        found = Everything.cat(list(_asked(asking, grid, crop, size, config)))
        parts.append(_suppressed(found, found.ious, config.nms_threshold))
    found = Everything.cat(parts)
    if len(crops) > 1:
        width, height = (found.crops[:, 2:] - found.crops[:, :2]).T
        found = _suppressed(found, 1 / (width * height), config.crop_nms_threshold)
    return found if config.min_region_area <= 0 else _tidied(found, config)


def _asked(
    asking: Asking, grid: NDArray[np.float64], crop: Crop, size: tuple[int, int], config: EverythingConfig
) -> Iterator[Everything]:
    """What the points of one crop mean, in pixels of the image, batch by batch."""
    x, y = crop.box[:2]
    yield _nothing(size)
    for first in range(0, len(grid), config.points_per_batch):
        points = grid[first : first + config.points_per_batch]
        answers = _rather_stable(asking(points, config.iou_threshold), config)
        offset = config.stability_offset
        painted = paint(answers.logits, answers.canvas, (offset, -offset))
        with np.errstate(invalid="ignore"):
            inner, outer = painted.areas.astype(np.float32).T
            stability = inner / outer
        boxes = inclusive(painted.rle)
        kept = ~near_crop_edge(boxes, crop.box, size)
        if config.stability_threshold > 0:
            kept &= stability >= config.stability_threshold
        masks = painted.rle[kept].shift(x, y, size)
        yield Everything(
            masks,
            boxes[kept] + np.array([x, y, x, y]),
            answers.ious.cpu().numpy().astype(np.float32)[kept],
            stability[kept],
            points[answers.points.cpu().numpy()][kept] + np.array([x, y]),
            np.tile(np.array(crop.box), (int(kept.sum()), 1)),
        )


def _rather_stable(answers: Answers, config: EverythingConfig) -> Answers:
    """Without masks whose coarse logits say that the pixels cannot be stable enough."""
    if config.stability_threshold <= 0 or answers.canvas.grid == answers.canvas.size:
        return answers
    rows, columns = (
        -(-g * v // p) for g, v, p in zip(answers.canvas.grid, answers.canvas.valid, answers.canvas.padded, strict=True)
    )
    seen, offset = answers.logits[:, :rows, :columns], config.stability_offset
    inner, outer = ((seen > level).sum((1, 2)) for level in (offset, -offset))
    # Small masks have too few cells to tell.
    kept = (inner / outer.clamp(min=1) >= config.stability_threshold - ROUGH_MARGIN) | (outer < 100)
    return answers._replace(points=answers.points[kept], logits=answers.logits[kept], ious=answers.ious[kept])


def _suppressed(found: Everything, scores: NDArray[Any], threshold: float) -> Everything:
    boxes = torch.from_numpy(found.boxes).float()
    kept = torchvision().ops.nms(boxes, torch.from_numpy(scores).float(), threshold)
    return found.take(kept.numpy())


def _tidied(found: Everything, config: EverythingConfig) -> Everything:
    """Without small holes and islands; of what becomes alike, unchanged masks stay rather than changed ones."""
    masks: list[RLE] = [RLE.empty(found.masks.size)]
    unchanged = []
    for one in found.masks:
        mask = one.to_rle().decode()[0]
        mask, filled = without_small_regions(mask, config.min_region_area, holes=True)
        mask, cleared = without_small_regions(mask, config.min_region_area, holes=False)
        unchanged.append(not (filled or cleared))
        masks.append(one.to_rle() if unchanged[-1] else RLE.from_bitmaps(mask[None]))
    tidy = Masks.cat(masks)
    threshold = max(config.nms_threshold, config.crop_nms_threshold)
    return _suppressed(found._replace(masks=tidy, boxes=inclusive(tidy)), np.array(unchanged, np.float32), threshold)


def inclusive(masks: RLE) -> NDArray[np.int64]:
    """(N, 4) xyxy of each mask's first and last pixels; zeros for an empty one."""
    boxes = masks.boxes().astype(np.int64)
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return boxes


def _nothing(size: tuple[int, int]) -> Everything:
    none = np.zeros(0, np.float32)
    boxes = np.zeros((0, 4), np.int64)
    return Everything(RLE.empty(size), boxes, none, none, np.zeros((0, 2)), boxes)


def limited(config: EverythingConfig, iou: float | None, nms: float | None) -> EverythingConfig:
    """With the thresholds that a user wishes."""
    config = config if iou is None else replace(config, iou_threshold=iou)
    return config if nms is None else replace(config, nms_threshold=nms)
