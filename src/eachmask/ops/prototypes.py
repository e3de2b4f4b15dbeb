"""Masks as weighted sums of prototypes, to learn and to predict.

All is of Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, arXiv 1904.02689.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from eachmask.ops.coarse_masks import coarse_masks
from eachmask.structures import Instances
from eachmask.structures import boxes as box_ops

_CELL_CHUNK_SIZE = 1 << 24
"""Cells of masks held in float32 at a time."""


def on_grid(boxes: Tensor, spanned: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Boxes in pixels of a canvas (height, width) -> in cells of the (rows, columns) grid that spans it.

    >>> on_grid(torch.tensor([[8.0, 8.0, 24.0, 16.0]]), (32, 32), (8, 8)).tolist()
    [[2.0, 2.0, 6.0, 4.0]]
    """
    return boxes * boxes.new_tensor([grid[1] / spanned[1], grid[0] / spanned[0]]).repeat(2)


def windows_of(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, 4) whole cells x1, y1, x2, y2 that a mask may cover: its box with a cell more on each side.

    Args:
        boxes: (N, 4) in cells.

    >>> windows_of(torch.tensor([[2.0, 2.0, 6.0, 4.0]]), (8, 8)).tolist()
    [[1, 1, 7, 5]]
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


def assemble(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, spanned: tuple[int, int]) -> Crops:
    """Prototypes weighted by coefficients (eq. 1), inside the boxes only.

    Args:
        prototypes: (P, h, w); coefficients: (N, P); boxes: (N, 4) px.
        spanned: (height, width) in px that the grid spans.

    >>> crops = assemble(torch.zeros(3, 8, 8), torch.zeros(1, 3), torch.tensor([[8.0, 8.0, 24.0, 16.0]]), (32, 32))
    >>> crops.values[0].shape, crops.origins.tolist(), crops.values[0].unique().item()
    (torch.Size([4, 6]), [[1, 1]], 0.5)
    """
    prototypes = prototypes.float()
    grid = (int(prototypes.shape[1]), int(prototypes.shape[2]))
    windows = windows_of(on_grid(boxes, spanned, grid), grid).cpu()
    values: list[Tensor] = []
    with torch.autocast(prototypes.device.type, enabled=False):
        if prototypes.device.type == "cpu":  # nothing is computed outside of the windows
            for one, (x1, y1, x2, y2) in zip(coefficients.float(), windows.tolist(), strict=True):
                values.append(torch.tensordot(one, prototypes[:, y1:y2, x1:x2], dims=1).sigmoid_())
            return Crops(values, windows[:, :2])
        chunk_size = max(1, _CELL_CHUNK_SIZE // max(grid[0] * grid[1], 1))
        for first in range(
            0, len(windows), chunk_size
        ):  # a product and a journey for many are faster than one for each
            part = coefficients[first : first + chunk_size].float()
            whole = (part @ prototypes.flatten(1)).sigmoid_().cpu().view(-1, *grid)
            for mask, (x1, y1, x2, y2) in zip(whole, windows[first : first + chunk_size].tolist(), strict=True):
                values.append(mask[y1:y2, x1:x2].clone())
    return Crops(values, windows[:, :2])


class Assembled(NamedTuple):
    """One object's masks as its M predictions have them and as they should be, in a window of the grid."""

    probabilities: Tensor  # (M, h, w)
    gt: Tensor  # (h, w) 0 or 1
    origin: tuple[int, int]  # x and y of the window's first cell
    area: float  # of the object's box, in cells
    gt_area: int  # of the object's mask, in cells, also outside of the window
    label: int


def assemble_objects(
    prototypes: Tensor, coefficients: Tensor, index: Tensor, target: Instances, spanned: tuple[int, int]
) -> Iterator[Assembled]:
    """Predicted masks and the target's (eq. 1), object by object, each in the window of its own box.

    Args:
        prototypes: (P, h, w); coefficients: (M, P).
        index: (M,) which of the target's objects each prediction stands for.
        target: with labels and masks.
        spanned: (height, width) in px that the grid spans.

    Raises:
        ValueError: the target has no masks.

    >>> from eachmask.structures import RLE
    >>> masks = RLE.from_label_map(torch.ones(32, 32, dtype=torch.int32).numpy())
    >>> target = Instances((32, 32), torch.tensor([[0.0, 0.0, 32.0, 32.0]]), masks)
    >>> (one,) = assemble_objects(torch.zeros(3, 8, 8), torch.zeros(2, 3), torch.tensor([0, 0]), target, (32, 32))
    >>> one.probabilities.shape, one.gt.shape, one.gt_area
    (torch.Size([2, 8, 8]), torch.Size([8, 8]), 64)
    """
    prototypes = prototypes.float()
    objects = index.unique()
    grid = (int(prototypes.shape[1]), int(prototypes.shape[2]))
    boxes = on_grid(target.boxes.to(prototypes)[objects], spanned, grid)
    areas = box_ops.area(boxes).clamp(min=1.0).tolist()
    gt_masks = coarse_masks(target.gt_masks[objects], spanned, grid)
    windows = windows_of(boxes, grid).tolist()
    for i, coarse, window, area in zip(objects.tolist(), gt_masks, windows, areas, strict=True):
        x1, y1, x2, y2 = window
        logits = torch.tensordot(coefficients[index == i], prototypes[:, y1:y2, x1:x2], dims=1)
        gt = torch.from_numpy(coarse.within(window)).to(logits)
        yield Assembled(logits.sigmoid(), gt, (x1, y1), area, coarse.area, int(target.labels[i]))
