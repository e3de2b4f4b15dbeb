"""From masks stored pixel by pixel to masks stored window by window (Chen et al., TensorMask, arXiv 1903.12174).

In the *aligned* representation the channel (v, u) of a place holds what the window standing around ANOTHER place says
of this one, so that neighboring channels of one place belong to neighboring windows and the pixels below agree. A
window's mask (its *natural* representation) is therefore read along a diagonal of the four axes (section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bordered(aligned: Tensor, outside: float = -6.0) -> Tensor:
    """The aligned tensor with one more value around it along each axis: (V, V, H, W) -> (V + 2, V + 2, H + 2, W + 2).

    Args:
        aligned: at the finest stride: window row, window column, row, column.
        outside: value of everything beyond the tensor; it blends in at the borders of windows and image.

    >>> bordered(torch.zeros(3, 3, 4, 5)).shape
    torch.Size([5, 5, 6, 7])
    """
    return F.pad(aligned, (1,) * 8, value=outside)


def aligned_to_natural(aligned: Tensor, cells: Tensor, factor: int) -> Tensor:
    """The masks of some windows, enlarged and moved to their places in one go (swap_align2nat of the paper).

    out[n, v, u] is the aligned tensor at row y factor + v - V' / 2 + 1/2 and window row (v + 1/2) / factor - 1/2, and
    likewise along x, with V' = factor V: linear between neighbors along all four axes.

    Args:
        aligned: (V + 2, V + 2, H + 2, W + 2) with its border, see :func:`bordered`.
        cells: (N, 2) int row and column of the windows' places on a map ``factor`` times coarser.

    Returns:
        (N, V', V').

    >>> aligned = bordered(torch.ones(3, 3, 8, 8), outside=0.0)
    >>> aligned_to_natural(aligned, torch.tensor([[4, 4]]), factor=1)[0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    window, _, height, width = (n - 2 for n in aligned.shape)
    size = factor * window
    padded = aligned.reshape(-1)
    step = torch.arange(size, device=aligned.device)
    inner = (step + 0.5) / factor - 0.5
    outer = cells[..., None] * factor + (step - size / 2 + 0.5)  # (N, 2, V')
    strides = ((window + 2) * (height + 2) * (width + 2), (height + 2) * (width + 2), width + 2, 1)
    rows = _corners(inner, window, strides[0], outer[:, 0], height, strides[2])
    columns = _corners(inner, window, strides[1], outer[:, 1], width, strides[3])
    result = aligned.new_zeros(len(cells), size, size)
    for row, row_weight in rows:
        for column, column_weight in columns:
            values = padded[row[:, :, None] + column[:, None, :]]
            result = result + values * (row_weight[:, :, None] * column_weight[:, None, :]).to(values)
    return result


def _corners(
    inner: Tensor, num_inner: int, inner_stride: int, outer: Tensor, num_outer: int, outer_stride: int
) -> list[tuple[Tensor, Tensor]]:
    """Neighbors along a pair of axes: offsets (N, V') into the padded tensor and weights, those that count."""
    result = []
    for a, a_weight in _neighbors(inner, num_inner):
        for b, b_weight in _neighbors(outer, num_outer):
            result.append((a * inner_stride + b * outer_stride, a_weight * b_weight))
    return result


def _neighbors(place: Tensor, num: int) -> list[tuple[Tensor, Tensor]]:
    """The whole numbers below and above, in the padded tensor's count, and their weights."""
    low = place.floor()
    share = place - low
    index = low.long()
    below, above = (i.clamp(-1, num) + 1 for i in (index, index + 1))
    return [(below, 1 - share), (above, share)] if bool(share.any()) else [(below, 1 - share)]
