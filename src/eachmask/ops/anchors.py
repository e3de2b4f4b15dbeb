"""Anchor boxes on the places of a feature map (Ren et al., arXiv 1506.01497, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def octave(size: float, steps: int = 3) -> tuple[float, ...]:
    """Sizes from `size` up to its double, `steps` of them at equal ratios (Lin et al., arXiv 1708.02002, section 4).

    >>> [round(size, 1) for size in octave(32)]
    [32.0, 40.3, 50.8]
    """
    return tuple(size * 2 ** (step / steps) for step in range(steps))


def base_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = True) -> Tensor:
    """Anchors around the origin: (ratios x sizes, 4) xyxy, ratio by ratio.

    Args:
        sizes: square roots of the areas, px.
        ratios: height over width.
        rounded: to whole pixels.

    >>> base_anchors([32], [1.0, 4.0]).tolist()
    [[-16.0, -16.0, 16.0, 16.0], [-8.0, -32.0, 8.0, 32.0]]
    """
    heights = torch.sqrt(torch.tensor(ratios, dtype=torch.float32))
    scales = torch.tensor(sizes, dtype=torch.float32)
    h = (heights[:, None] * scales[None]).reshape(-1)
    w = ((1 / heights)[:, None] * scales[None]).reshape(-1)
    base = torch.stack([-w, -h, w, h], dim=1) / 2
    return base.round() if rounded else base


def grid_anchors(base: Tensor, grid: tuple[int, int], stride: tuple[float, float], first: float = 0.0) -> Tensor:
    """The base anchors at every place of a (rows, columns) grid: (rows columns A, 4), row by row.

    Args:
        base: (A, 4) around the origin.
        stride: (vertical, horizontal) pixels between places.
        first: where the first place is, in strides: 0 in the corner of its cell, 0.5 in the middle.

    >>> grid_anchors(torch.tensor([[-2.0, -2.0, 2.0, 2.0]]), (1, 2), (8, 8)).tolist()
    [[-2.0, -2.0, 2.0, 2.0], [6.0, -2.0, 10.0, 2.0]]
    """
    y = (torch.arange(grid[0], dtype=torch.float32, device=base.device) + first) * stride[0]
    x = (torch.arange(grid[1], dtype=torch.float32, device=base.device) + first) * stride[1]
    y, x = (v.reshape(-1) for v in torch.meshgrid(y, x, indexing="ij"))
    return (torch.stack([x, y, x, y], dim=1)[:, None] + base[None]).reshape(-1, 4)


def flatten_anchors(level: Tensor, width: int) -> Tensor:
    """What a head says of a level, (B, A width, H, W) -> (B, H W A, width), the order of the anchors.

    >>> flatten_anchors(torch.arange(8.0).view(1, 4, 1, 2), 2)[0].tolist()  # 2 places of 2 anchors
    [[0.0, 2.0], [4.0, 6.0], [1.0, 3.0], [5.0, 7.0]]
    """
    batch, _, height, columns = level.shape
    return level.view(batch, -1, width, height, columns).permute(0, 3, 4, 1, 2).reshape(batch, -1, width)
