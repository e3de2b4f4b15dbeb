"""Masks as weighted sums of prototypes, to learn and to predict, and the suppression that comes before them.

All are of Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, arXiv 1904.02689.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from eachmask.ops.coarse_masks import coarse_masks
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops

_CELLS_AT_ONCE = 1 << 24
"""Cells of masks held in float32 at a time."""
_PAIRS_AT_ONCE = 1 << 20
"""Pairs of boxes compared at a time, in some 40 bytes each."""


def fast_nms(
    boxes: Tensor, scores: Tensor, threshold: float, per_class: int, score_threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """Suppression of all classes in one go (section 3.3): what overlaps any better box of its class goes.

    Args:
        boxes: (N, 4), shared by all classes; scores: (N, K).
        threshold: IoU from above which the worse one goes.
        per_class: best boxes of each class that take part.
        score_threshold: what scores this or less is not returned; None: everything that survives is.

    Returns:
        rows and labels of the survivors, class by class.
    """
    classes = torch.arange(scores.shape[1], device=scores.device)
    per_class = min(per_class, len(scores))
    if score_threshold is not None:  # what is too weak to be returned suppresses only what is weaker still
        strong = scores > score_threshold
        classes = torch.nonzero(strong.any(dim=0)).squeeze(1)
        per_class = min(per_class, int(strong.sum(dim=0).max())) if len(classes) and len(scores) else 0
    if not per_class:
        return classes.new_zeros(0), classes.new_zeros(0)
    best, index = scores[:, classes].t().topk(per_class, dim=1)  # (K', n), sorted
    at_once = max(1, _PAIRS_AT_ONCE // per_class**2)
    overlaps = [_largest_overlap(boxes[rows]) for rows in index.split(at_once)]  # type: ignore[no-untyped-call]
    kept = torch.cat(overlaps) <= threshold
    if score_threshold is not None:
        kept &= best > score_threshold
    row, column = torch.nonzero(kept, as_tuple=True)
    return index[row, column], classes[row]


def _largest_overlap(boxes: Tensor) -> Tensor:
    """(K, n, 4) boxes of K classes, best first -> (K, n) largest IoU of each with a better one of its class."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (high - low).clamp_(min=0).prod(-1)
    area = box_ops.area(boxes)
    union = area[:, :, None] + area[:, None] - common
    iou = torch.where(union > 0, common / union, 0.0)
    return iou.triu_(diagonal=1).max(dim=1).values


def on_grid(boxes: Tensor, frame: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Boxes in pixels of a frame (height, width) -> in cells of the (rows, columns) grid that spans it."""
    return boxes * boxes.new_tensor([grid[1] / frame[1], grid[0] / frame[0]]).repeat(2)


def windows_of(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, 4) whole cells x1, y1, x2, y2 that a mask may cover: its box with a cell more on each side.

    Args:
        boxes: (N, 4) in cells.
    """
    rows, columns = grid
    limit = boxes.new_tensor([columns, rows])
    low = (boxes[:, :2] - 1).ceil().clamp(min=0)
    low = torch.minimum(low, limit)
    high = torch.minimum((boxes[:, 2:] + 1).ceil(), limit)
    return torch.cat([low, torch.maximum(high, low)], dim=1).long()


class Crops(NamedTuple):
    """Probabilities of N masks, each in its own window of the prototypes' grid."""

    values: list[Tensor]  # N of (h, w), 0..1
    origins: Tensor  # (N, 2) x and y of the windows' first cells


def assemble(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, frame: tuple[int, int]) -> Crops:
    """Prototypes weighted by coefficients (eq. 1), inside the boxes only.

    Args:
        prototypes: (P, h, w); coefficients: (N, P); boxes: (N, 4) px.
        frame: (height, width) in px that the grid spans.
    """
    prototypes = prototypes.float()
    grid = (int(prototypes.shape[1]), int(prototypes.shape[2]))
    windows = windows_of(on_grid(boxes, frame, grid), grid).cpu()
    values: list[Tensor] = []
    with torch.autocast(prototypes.device.type, enabled=False):
        if prototypes.device.type == "cpu":  # nothing is computed outside of the windows
            for one, (x1, y1, x2, y2) in zip(coefficients.float(), windows.tolist(), strict=True):
                values.append(torch.tensordot(one, prototypes[:, y1:y2, x1:x2], dims=1).sigmoid_())
            return Crops(values, windows[:, :2])
        at_once = max(1, _CELLS_AT_ONCE // max(grid[0] * grid[1], 1))
        for first in range(0, len(windows), at_once):  # a product and a journey for many are faster than one for each
            part = coefficients[first : first + at_once].float()
            whole = (part @ prototypes.flatten(1)).sigmoid_().cpu().view(-1, *grid)
            for mask, (x1, y1, x2, y2) in zip(whole, windows[first : first + at_once].tolist(), strict=True):
                values.append(mask[y1:y2, x1:x2].clone())
    return Crops(values, windows[:, :2])


class Drawn(NamedTuple):
    """One object's masks as its M predictions draw them and as they should be, in a window of the grid."""

    probabilities: Tensor  # (M, h, w)
    wanted: Tensor  # (h, w) 0 or 1
    origin: tuple[int, int]  # x and y of the window's first cell
    area: float  # of the object's box, in cells
    wanted_area: int  # of the object's mask, in cells, also outside of the window
    label: int


def draw_objects(
    prototypes: Tensor, coefficients: Tensor, index: Tensor, target: Instances, frame: tuple[int, int]
) -> Iterator[Drawn]:
    """Predicted and wanted masks (eq. 1), object by object, each in the window of its true box.

    Args:
        prototypes: (P, h, w); coefficients: (M, P).
        index: (M,) which of the target's objects each prediction stands for.
        target: with labels and masks.
        frame: (height, width) in px that the grid spans.

    Raises:
        ValueError: the target has no masks.
    """
    assert target.labels is not None
    prototypes = prototypes.float()
    objects = index.unique()  # type: ignore[no-untyped-call]
    grid = (int(prototypes.shape[1]), int(prototypes.shape[2]))
    boxes = on_grid(target.boxes.to(prototypes)[objects], frame, grid)
    areas = box_ops.area(boxes).clamp(min=1.0).tolist()
    wanted = coarse_masks(target.true_masks[objects], frame, grid)
    windows = windows_of(boxes, grid).tolist()
    for i, coarse, window, area in zip(objects.tolist(), wanted, windows, areas, strict=True):
        x1, y1, x2, y2 = window
        logits = torch.tensordot(coefficients[index == i], prototypes[:, y1:y2, x1:x2], dims=1)
        truth = torch.from_numpy(coarse.within(window)).to(logits)
        yield Drawn(logits.sigmoid(), truth, (x1, y1), area, coarse.area, int(target.labels[i]))
