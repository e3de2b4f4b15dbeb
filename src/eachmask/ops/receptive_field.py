"""How far a pixel of a map sees: receptive fields of convolutions one above the other, and of whole networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """One side of a convolution or a pooling."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0


class Reach(NamedTuple):
    """What one cell of the last map sees of the image's side, px."""

    field: int
    """So many pixels."""
    stride: int
    """Two cells that lie side by side see parts that lie so far from one another."""
    first: int
    """Where the first cell's part begins; below 0 is padding."""


def reach(layers: Iterable[Layer]) -> Reach:
    """What a cell sees through all layers, from the image on.

    >>> reach([Layer(3)] * 5)  # 1 + 2 L
    Reach(field=11, stride=1, first=0)
    >>> reach(Layer(3, dilation=1 << i) for i in range(5)).field  # 2^(L + 1) - 1
    63
    """
    field, step, first = 1, 1, 0
    for kernel, stride, dilation, padding in layers:
        field += dilation * (kernel - 1) * step
        first -= padding * step
        step *= stride
    return Reach(field, step, first)


@torch.no_grad()
def reach_of(network: Callable[[Tensor], Tensor], size: tuple[int, int] = (32, 1024)) -> Reach | None:
    """What a cell of a network's map sees along the image's width, found by trying; None: all of it.

    Whatever depends on a pixel that is not a number is not a number either. So the border of what the middle cell sees
    is found by bisection, whatever the network is made of.

    Args:
        network: (1, 3, H, W) -> (1, C, h, w), in eval mode.
        size: (height, width) that it is tried on; whoever sees to both ends sees all.

    >>> reach_of(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 1, 3)))
    Reach(field=13, stride=4, first=-1)
    """
    height, width = size
    cells = network(torch.zeros(1, 3, height, width)).shape[-1]
    middle, stride = cells // 2, round(width / cells)

    def sees(begin: int, end: int) -> bool:
        image = torch.zeros(1, 3, height, width)
        image[..., begin:end] = torch.nan
        return bool(network(image)[..., middle].isnan().any())

    if sees(0, 1) or sees(width - 1, width):
        return None
    left = _last(lambda begin: not sees(0, begin), 0, width)
    right = width - _last(lambda count: not sees(width - count, width), 0, width)
    return Reach(right - left, stride, left - middle * stride)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number for which something holds, which holds at ``low``, not at ``high``, and changes once."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
