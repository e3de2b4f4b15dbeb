"""Depthwise convolutions whose gradients take the CPU's fast kernels.

A depthwise convolution has a kernel of its own for each channel. oneDNN, which torch computes with, has fast gradients
for kernels of 3 x 3. Those of larger kernels, and in bfloat16 all gradients of the input behind a stride, take up to
thirty times longer than they have to. Both are brought back to what is fast:

* a larger kernel's gradient is put together from those of 3 x 3 kernels that see the input shifted, since
  `dW[i, j] = sum over places p of x[stride * p + (i, j)] * dY[p]` (the chain rule) knows no neighbors in `(i, j)`;
* in bfloat16 the gradient of the input of a convolution with a stride is computed in float32.

Shapes: N images of C channels, kernels k x k.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_BYTES = 3_200_000
"""Of the images that are summed over in one go: more do not stay in the caches."""


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Depthwise convolution with gradients.

    Args:
        x: `(N, C, H, W)` on the CPU, float32 or bfloat16.
        weight: `(C, 1, k, k)` of the same type, k odd.
        bias: `(C,)`.
        padding: of rows and columns, on each side.

    Returns:
        `(N, C, H', W')`.
    """
    result: Tensor = _Depthwise.apply(x, weight, bias, stride, padding)
    return result


def of_call(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor | None:
    """The answer to a call of `torch.conv2d`, or None where the ordinary way is the better or the only one."""
    if (
        groups == 1
        or x.dim() != 4
        or not groups == x.shape[1] == weight.shape[0]
        or x.device.type != "cpu"
        or not (torch.is_grad_enabled() and weight.requires_grad)
        or isinstance(padding, str)
        or _both(dilation) != (1, 1)
    ):
        return None
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else weight.dtype
    (rows, columns), (down, right) = weight.shape[2:], _both(stride)
    slow = rows > 3 or (dtype == torch.bfloat16 and down > 1)
    if (
        not slow
        or rows != columns
        or rows % 2 == 0
        or down != right
        or dtype not in (torch.float32, torch.bfloat16)
        or not (autocast or x.dtype == dtype)
    ):
        return None
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.to(dtype)
        return depthwise(x.to(dtype), weight.to(dtype), bias, down, _both(padding))


def _both(value: Any) -> tuple[int, int]:
    """One number for rows and columns, or two."""
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        (above,) = grads
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            _gradient_of_input(x, weight, above, ctx.stride, ctx.padding) if needs_x else None,
            _gradient_of_kernels(x, weight, above, ctx.stride, ctx.padding) if needs_weight else None,
            above.sum((0, 2, 3)) if needs_bias else None,
            None,
            None,
        )


def _gradient_of_input(x: Tensor, weight: Tensor, above: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
    """`(N, C, H, W)`."""
    if stride > 1:
        found = _gradients(torch.empty_like(x, dtype=torch.float32), weight.float(), above.float(), stride, padding, 0)
        return found.to(x.dtype)
    return _gradients(x, weight, above, stride, padding, 0)


def _gradient_of_kernels(x: Tensor, weight: Tensor, above: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
    """`(C, 1, k, k)`: the sum over the images, a few at a time, of gradients of 3 x 3 kernels."""
    k = weight.shape[2]
    if k <= 3:
        return _gradients(x, weight, above, stride, padding, 1)
    rows, columns = (stride * (side - 1) + 3 for side in above.shape[2:])
    small = weight[:, :, :3, :3].contiguous()
    starts = [*range(0, k - 3, 3), k - 3]
    total = torch.zeros(weight.shape)
    for images in _groups(x):
        padded = F.pad(x[images], (padding[1], padding[1], padding[0], padding[0]))
        found = torch.empty(weight.shape)
        for i in starts:
            for j in starts:
                shifted = padded[:, :, i : i + rows, j : j + columns]
                found[:, :, i : i + 3, j : j + 3] = _gradients(shifted, small, above[images], stride, (0, 0), 1)
        total += found
    return total.to(weight.dtype)


def _groups(x: Tensor) -> Iterator[slice]:
    """So many images of `(N, C, H, W)` that the caches hold them, one at least."""
    many = max(1, MOST_BYTES // (x[0].numel() * x.element_size()))
    yield from (slice(first, first + many) for first in range(0, len(x), many))


def _gradients(x: Tensor, weight: Tensor, above: Tensor, stride: int, padding: tuple[int, int], which: int) -> Tensor:
    """What torch's own gradient gives: of the input (0) or of the kernels (1)."""
    asked = [which == 0, which == 1, False]
    sides = [stride, stride], list(padding), [1, 1]
    found: Tensor = torch.ops.aten.convolution_backward(
        above, x, weight, None, *sides, False, [0, 0], len(weight), asked
    )[which]  # fmt: skip
    return found
