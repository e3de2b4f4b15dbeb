"""How far a pixel of a map sees: receptive fields of convolutions one above the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


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
