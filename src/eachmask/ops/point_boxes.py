"""Boxes as a place and its distances to the four sides (Tian et al., FCOS, arXiv 1904.01355).

Distances are (..., 4) px to left, top, right and bottom, positive within the box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def level_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None
) -> list[Tensor]:
    """(H W, 2) x and y of the centers of every level's cells, px, row by row (section 3.1).

    Args:
        shapes: (rows, columns) of each level.

    >>> level_points([(1, 2)], [8])[0].tolist()
    [[4.0, 4.0], [12.0, 4.0]]
    """
    result = []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        result.append(torch.stack([x.reshape(-1), y.reshape(-1)], dim=1))
    return result


def distances_to(points: Tensor, boxes: Tensor) -> Tensor:
    """From points (..., 2) to the sides of boxes (..., 4) xyxy: (..., 4) (eq. 1).

    >>> distances_to(torch.tensor([[10.0, 20]]), torch.tensor([[9.0, 18, 13, 24]])).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_from(points: Tensor, distances: Tensor) -> Tensor:
    """Undo of :func:`distances_to`: (..., 4) xyxy.

    >>> boxes_from(torch.tensor([[10.0, 20]]), torch.tensor([[1.0, 2, 3, 4]]))
    tensor([[ 9., 18., 13., 24.]])
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def centerness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), 1 in the middle of a box and 0 at its border (eq. 3).

    Args:
        distances: (N, 4) positive.

    >>> centerness(torch.tensor([[2.0, 2, 2, 2], [1, 2, 4, 2]])).tolist()
    [1.0, 0.5]
    """
    x, y = distances[:, 0::2], distances[:, 1::2]
    return (x.amin(1) / x.amax(1) * (y.amin(1) / y.amax(1))).clamp(min=0).sqrt()


def iou_of_distances(predicted: Tensor, gt: Tensor, margin: float = 0.0) -> Tensor:
    """IoU of boxes around the same points, from their distances: (M, 4), (M, 4) -> (M,).

    Args:
        margin: added to all widths and heights, px.

    >>> iou_of_distances(torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 3, 1]])).tolist()
    [0.5]
    """
    common = torch.minimum(predicted, gt)
    areas = [(d[:, 0] + d[:, 2] + margin) * (d[:, 1] + d[:, 3] + margin) for d in (common, predicted, gt)]
    return areas[0] / (areas[1] + areas[2] - areas[0]).clamp(min=1e-6)


def smoothed_giou_loss(predicted: Tensor, gt: Tensor) -> Tensor:
    """1 - GIoU of boxes around the same points, 1 added to both areas of the IoU: (M, 4), (M, 4) -> (M,).

    AdelaiDet's; distances in strides.

    >>> smoothed_giou_loss(torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 1, 1]])).tolist()
    [0.0]
    """
    common, hull = torch.minimum(predicted, gt), torch.maximum(predicted, gt)
    inner, outer, a, b = ((d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3]) for d in (common, hull, predicted, gt))
    union = a + b - inner
    return 1 - (inner + 1) / (union + 1) + (outer - union) / outer.clamp(min=1e-6)
