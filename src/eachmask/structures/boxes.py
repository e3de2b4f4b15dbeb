"""Boxes: float (N, 4) xyxy in pixels, half-open. Pure functions, differentiable where it makes sense."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Format = Literal["xyxy", "xywh", "cxcywh"]

Weights = tuple[float, float, float, float]
"""What encoded offsets are multiplied by, so that they are about as large as 1."""

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest predicted log magnification: a 16 px anchor grows to 1000 px at most (Detectron's clip)."""


def area(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N,) px^2; negative for boxes turned inside out.

    >>> area(torch.tensor([[0.0, 0, 2, 3]])).tolist()
    [6.0]
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> (N, M) px^2 of common area.

    >>> intersection(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]])).tolist()
    [[2.0, 0.0]]
    """
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> (N, M) intersection over union, 0..1 (0 where both are empty).

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1], [5, 5, 6, 6]]))
    tensor([[0.5000, 0.0000]])
    """
    common = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - common
    return torch.where(union > 0, common / union, torch.zeros_like(common))


def coverage(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> (N, M) share of a that lies in b: COCO's measure against crowd regions.

    >>> coverage(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 9, 9]])).tolist()
    [[0.5]]
    """
    size = area(a)[:, None]
    common = intersection(a, b)
    return torch.where(size > 0, common / size, torch.zeros_like(common))


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise generalized IoU, -1..1 (Rezatofighi et al., CVPR 2019, algorithm 1): (N, 4), (M, 4) -> (N, M).

    >>> giou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 1, 1], [3, 0, 4, 1]])).tolist()  # 0 - 2 / 4
    [[1.0, -0.5]]
    """
    common = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - common
    hull = torch.maximum(a[:, None, 2:], b[None, :, 2:]) - torch.minimum(a[:, None, :2], b[None, :, :2])
    hull_area = hull.prod(-1)
    eps = torch.finfo(common.dtype).tiny
    return common / union.clamp(min=eps) - (hull_area - union) / hull_area.clamp(min=eps)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut at the image's border; size is (height, width).

    >>> clip(torch.tensor([[-2.0, 1, 9, 9]]), (4, 8)).tolist()
    [[0.0, 1.0, 8.0, 4.0]]
    """
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def ratios(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(2,) float32, the magnification along x and y from one (height, width) to another.

    Divided in float32, as torchvision does, so that both round the same way.

    >>> ratios((100, 200), (50, 400)).tolist()
    [2.0, 0.5]
    """
    return torch.tensor([new[1], new[0]], dtype=torch.float32) / torch.tensor([old[1], old[0]], dtype=torch.float32)


def resize(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes of an image stretched from one (height, width) to another.

    >>> resize(torch.tensor([[1.0, 2, 3, 4]]), (10, 10), (20, 10)).tolist()
    [[1.0, 4.0, 3.0, 8.0]]
    """
    return boxes * ratios(old, new).repeat(2).to(boxes)


def convert(boxes: Tensor, source: Format, target: Format) -> Tensor:
    """Between corner (xyxy), corner-and-size (xywh) and center-and-size (cxcywh) form.

    >>> convert(torch.tensor([[1.0, 2, 5, 4]]), "xyxy", "cxcywh")
    tensor([[3., 3., 4., 2.]])
    """
    a, b, c, d = boxes.unbind(-1)
    if source == "xywh":
        a, b, c, d = a, b, a + c, b + d
    elif source == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if target == "xywh":
        a, b, c, d = a, b, c - a, d - b
    elif target == "cxcywh":
        a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
    return torch.stack([a, b, c, d], dim=-1)


def encode(boxes: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """Offsets from anchors to boxes (Girshick et al., R-CNN, appendix C): (N, 4), (N, 4) -> (N, 4).

    >>> anchors = torch.tensor([[0.0, 0, 4, 4]])
    >>> encode(torch.tensor([[1.0, 0, 5, 4]]), anchors, (10.0, 10.0, 5.0, 5.0)).tolist()  # a quarter to the right
    [[2.5, 0.0, 0.0, 0.0]]
    """
    x, y, w, h = convert(boxes, "xyxy", "cxcywh").unbind(-1)
    ax, ay, aw, ah = convert(anchors, "xyxy", "cxcywh").unbind(-1)
    wx, wy, ww, wh = weights
    return torch.stack([wx * (x - ax) / aw, wy * (y - ay) / ah, ww * torch.log(w / aw), wh * torch.log(h / ah)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights, symmetric: bool = False) -> Tensor:
    """Undo of :func:`encode`: (..., 4) offsets and anchors that broadcast -> (..., 4) xyxy.

    Args:
        symmetric: boxes shrink no more than they may grow.

    >>> anchors = torch.tensor([[0.0, 0, 4, 4]])
    >>> decode(torch.tensor([[2.5, 0.0, 0.0, 0.0]]), anchors, (10.0, 10.0, 5.0, 5.0)).tolist()
    [[1.0, 0.0, 5.0, 4.0]]
    """
    ax, ay, aw, ah = convert(anchors, "xyxy", "cxcywh").unbind(-1)
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), weights, strict=True))
    x, y = dx * aw + ax, dy * ah + ay
    low = -MAX_LOG_SCALE if symmetric else -math.inf
    w = torch.exp(dw.clamp(low, MAX_LOG_SCALE)) * aw
    h = torch.exp(dh.clamp(low, MAX_LOG_SCALE)) * ah
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=-1)
