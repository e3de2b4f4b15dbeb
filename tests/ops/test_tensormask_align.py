"""Aligned and natural masks, against the definition written out."""

from __future__ import annotations

import math

import pytest
import torch

from eachmask.ops.tensormask_align import aligned_to_natural, bordered


def by_definition(aligned: torch.Tensor, y: int, x: int, factor: int, outside: float) -> torch.Tensor:
    """One window's mask, value by value: all sixteen neighbors, those beyond the tensor count as ``outside``."""
    window, _, height, width = aligned.shape
    size = factor * window
    result = torch.zeros(size, size)
    for v in range(size):
        for u in range(size):
            place = (
                (v + 0.5) / factor - 0.5,
                (u + 0.5) / factor - 0.5,
                y * factor + v - size / 2 + 0.5,
                x * factor + u - size / 2 + 0.5,
            )
            total = 0.0
            for corner in range(16):
                index, weight, inside = [], 1.0, True
                for axis, (at, num) in enumerate(zip(place, (window, window, height, width), strict=True)):
                    low = math.floor(at)
                    above = corner >> axis & 1
                    weight *= at - low if above else 1 - (at - low)
                    index.append(low + above)
                    inside &= 0 <= low + above < num
                total += weight * (float(aligned[tuple(index)]) if inside else outside)
            result[v, u] = total
    return result


@pytest.mark.parametrize(("window", "factor"), [(3, 1), (3, 2), (2, 4), (4, 1)])
def test_is_the_paper_s_rearrangement(window, factor):
    torch.manual_seed(0)
    aligned = torch.randn(window, window, 5, 7)
    cells = torch.tensor([[0, 0], [1, 1], [2, 0]])
    found = aligned_to_natural(bordered(aligned), cells, factor)
    for mask, (y, x) in zip(found, cells.tolist(), strict=True):
        assert torch.allclose(mask, by_definition(aligned, y, x, factor, -6.0), atol=1e-5)


def test_windows_agree_on_a_pixel_that_all_call_the_same():
    """Where a place says 1 to all windows around it, every window's mask has a 1 there."""
    aligned = torch.zeros(3, 3, 9, 9)
    aligned[:, :, 4, 5] = 1
    masks = aligned_to_natural(bordered(aligned, outside=0.0), torch.tensor([[4, 5], [3, 5], [4, 4]]), 1)
    for mask, place in zip(masks, [(1, 1), (2, 1), (1, 2)], strict=True):
        assert mask[place] == 1 and mask.sum() == 1


def test_gradients_reach_what_was_read():
    aligned = torch.zeros(3, 3, 6, 6, requires_grad=True)
    aligned_to_natural(bordered(aligned), torch.tensor([[1, 1]]), 2).sum().backward()
    assert aligned.grad is not None and 0 < int((aligned.grad != 0).sum()) < aligned.numel()
