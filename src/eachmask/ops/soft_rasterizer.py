"""Polygons as soft masks that can be differentiated by their vertices (BoundaryFormer, Lazarow et al., CVPR 2022).

A pixel's value is the sigmoid of its squared distance to the outline, signed by whether it lies inside: 0.5 on the
outline, nearly 0 or 1 a few pixels away. Its gradient pulls at the two ends of the nearest edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

EDGE_CHUNK_SIZE = 1 << 23
"""Pixels x edges that are measured at the same time when the nearest edge of each pixel is sought: 32 MB a tensor."""


def soft_polygons(vertices: Tensor, size: tuple[int, int], smoothness: float) -> Tensor:
    """Closed polygons as masks: sigmoid(sign * d^2 / smoothness), d the distance of a pixel's center to the outline.

    Args:
        vertices: (N, P, 2) as (x, y) in pixels, pixel centers at .5; they may lie outside the canvas.
        size: (height, width) of the canvas.
        smoothness: square pixels; the smaller, the harder the edge.

    Returns:
        (N, height, width) in 0..1, differentiable by the vertices.

    >>> square = torch.tensor([[[1.0, 1.0], [5.0, 1.0], [5.0, 5.0], [1.0, 5.0]]])
    >>> soft_polygons(square, (6, 6), smoothness=0.1)[0, 3].round().tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    """
    if not len(vertices):
        return vertices.sum() + vertices.new_zeros((0, *size))
    sign = torch.where(inside(vertices.detach(), size), 1.0, -1.0).to(vertices)
    edge = nearest_edges(vertices.detach(), size).flatten(1)
    begin, end = (ends.gather(1, edge[..., None].expand(-1, -1, 2)) for ends in (vertices, vertices.roll(-1, dims=1)))
    y, x = (axis + 0.5 for axis in torch.meshgrid(*(torch.arange(s) for s in size), indexing="ij"))
    pixel = torch.stack([x, y], dim=-1).view(1, -1, 2).to(vertices)
    distance = squared_distance(pixel, begin, end).view(-1, *size)
    return torch.sigmoid(sign * distance / smoothness)


def squared_distance(points: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Of points to line segments, px^2: (..., 2) each, broadcast -> (...).

    >>> squared_distance(*(torch.tensor(place) for place in ([1.0, 2.0], [0.0, 0.0], [4.0, 0.0]))).item()
    4.0
    """
    along = end - begin
    length = (along * along).sum(-1) + 1e-5  # an edge may be a point
    share = (((points - begin) * along).sum(-1) / length).clamp(0, 1)
    return (points - begin - share[..., None] * along).square().sum(-1)


def inside(vertices: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixel centers lie inside, even-odd: (N, P, 2) px -> (N, height, width) bool.

    An edge crosses a row of pixel centers at most once, so it is enough to know how many crossings lie to the right
    of each pixel: a histogram of the crossings, summed up from the right.

    >>> square = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]]])
    >>> inside(square, (2, 4)).int().tolist()
    [[[0, 1, 1, 0], [0, 1, 1, 0]]]
    """
    height, width = size
    x, y = vertices[:, :, 0, None], vertices[:, :, 1, None]  # (N, P, 1)
    next_x, next_y = x.roll(-1, dims=1), y.roll(-1, dims=1)
    rows = torch.arange(height, device=vertices.device) + 0.5
    crosses = (y > rows) != (next_y > rows)  # (N, P, height)
    at = x + (rows - y) * (next_x - x) / torch.where(crosses, next_y - y, 1.0)
    column = (at - 0.5).ceil().clamp(0, width).to(torch.int64)  # the first pixel that is not to the left of it
    histogram = torch.zeros((len(vertices), height, width + 1), dtype=torch.int32, device=vertices.device)
    histogram.scatter_add_(2, column.transpose(1, 2), crosses.transpose(1, 2).to(torch.int32))
    to_the_right = histogram.flip(2).cumsum(2).flip(2)[:, :, 1:]
    return to_the_right % 2 == 1


@torch.no_grad()
def nearest_edges(vertices: Tensor, size: tuple[int, int]) -> Tensor:
    """The edge next to each pixel center: (N, P, 2) px -> (N, height, width) index of the edge's first vertex.

    Dot products with a grid fall apart into a part of the row and a part of the column, so that the distance of every
    pixel to every edge takes a handful of operations on (N, P, height, width), a few polygons at a time.

    >>> square = torch.tensor([[[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]]])
    >>> edges = nearest_edges(square, (9, 9))[0]
    >>> [int(edges[row, column]) for row, column in ((0, 4), (4, 8), (8, 4), (4, 0))]  # top, right, bottom, left
    [0, 1, 2, 3]
    """
    height, width = size
    rows, columns = (torch.arange(s, device=vertices.device, dtype=vertices.dtype) + 0.5 for s in size)
    chunk = max(1, EDGE_CHUNK_SIZE // (vertices.shape[1] * height * width))
    parts = (vertices[i : i + chunk] for i in range(0, len(vertices), chunk))
    return torch.cat([_nearest(part, rows, columns) for part in parts])


def _nearest(vertices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    along = vertices.roll(-1, dims=1) - vertices
    length = (along * along).sum(-1)[..., None, None] + 1e-5
    dx, dy = columns - vertices[..., :1], rows - vertices[..., 1:]  # (N, P, width), (N, P, height)
    dot = (dy * along[..., 1:])[..., None] + (dx * along[..., :1])[:, :, None]
    share = (dot / length).clamp_(0, 1)
    # |p - a - s d|^2 = |p - a|^2 + s (s |d|^2 - 2 (p - a) d)
    distance = share.mul(length).sub_(dot, alpha=2).mul_(share)
    distance += (dy * dy)[..., None]
    distance += (dx * dx)[:, :, None]
    return distance.argmin(dim=1)
