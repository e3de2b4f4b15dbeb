"""What converters do not know, said in operations that they know, while a network is written down as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def substituted(fixed: bool) -> Iterator[None]:
    """While this is entered, networks use operations that can be exported; the numbers are equal up to rounding.

    Args:
        fixed: sizes are plain numbers also while tracing, so that whatever depends on them is settled once and for all.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for all of an attention layer
    try:
        with _Substitutes(fixed):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Substitutes(TorchFunctionMode):
    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        chosen = SUBSTITUTES.get(function, function)
        found = chosen(*args, **(kwargs or {}))
        if self.fixed and function in _SIZES:
            return torch.Size(int(side) for side in found) if isinstance(found, torch.Size) else int(found)
        return found


def averages(x: Tensor, sides: int | tuple[int, int]) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d`, as a product with one matrix for each direction."""
    rows, columns = (sides, sides) if isinstance(sides, int) else sides
    if rows == columns == 1:
        return x.mean((-2, -1), keepdim=True)
    return _shares(x.shape[-2], rows, x) @ x @ _shares(x.shape[-1], columns, x).transpose(0, 1)


def _shares(length: Any, cells: int, like: Tensor) -> Tensor:
    """(cells, length): how much each place counts in each cell, from floor(i n / s) to ceil((i + 1) n / s)."""
    cell, place = torch.arange(cells).view(-1, 1), torch.arange(length).view(1, -1)
    first = torch.div(cell * length, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = ((place >= first) & (place < end)).to(like)
    return inside / inside.sum(1, keepdim=True)


def unpooled(x: Tensor, places: Tensor, *_: Any, output_size: Any, **__: Any) -> Tensor:
    """:func:`torch.nn.functional.max_unpool2d`: each value at its place (B, C, h, w) in zeros of the output's size."""
    height, width = output_size[-2], output_size[-1]
    zeros = x.new_zeros((x.shape[0], x.shape[1], height * width))
    return unflattened(zeros.scatter(2, places.flatten(2), x.flatten(2)), 2, (height, width))


def unflattened(x: Tensor, dim: int, sizes: Any) -> Tensor:
    """:meth:`torch.Tensor.unflatten`, which would freeze the other sides."""
    dim %= x.ndim
    before, after = [x.shape[i] for i in range(dim)], [x.shape[i] for i in range(dim + 1, x.ndim)]
    return x.reshape(*before, *sizes, *after)


def attention(
    query: Tensor, key: Tensor, value: Tensor, _: int, heads: int, weight: Tensor, bias: Tensor | None, *rest: Any,
    attn_mask: Tensor | None = None, **__: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """:func:`torch.nn.functional.multi_head_attention_forward` for any number of images.

    Args:
        query, key, value: (L or S, B, D).
        rest: biases of keys and values that nobody has, then dropout, then weight and bias of what leaves.
        attn_mask: (B heads, L, S), True where nobody looks, or to be added to the logits.
    """
    weights, biases = weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3)
    q, k, v = (
        unflattened(F.linear(x, w, b), 2, (heads, -1)).permute(1, 2, 0, 3)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    mask = None if attn_mask is None else unflattened(attn_mask, 0, (-1, heads))
    mask = ~mask if mask is not None and mask.dtype == torch.bool else mask
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 0, 1, 3).flatten(2)
    return F.linear(found, *rest[-2:]), None


def stacked(like: Tensor, values: Any) -> Tensor:
    """:meth:`torch.Tensor.new_tensor`, in which sizes that are tensors stay what they are."""
    if isinstance(values, list | tuple) and any(isinstance(value, Tensor) for value in values):
        return torch.stack([torch.as_tensor(value) for value in values]).to(like)
    return like.new_tensor(values)


SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    F.adaptive_avg_pool2d: averages,
    F.max_unpool2d: unpooled,
    F.multi_head_attention_forward: attention,
    Tensor.new_tensor: stacked,
    torch.unflatten: unflattened,
    Tensor.unflatten: unflattened,
    Tensor.mT.__get__: lambda x: x.transpose(-2, -1),  # type: ignore[attr-defined]
}
_SIZES = {Tensor.shape.__get__, Tensor.size}  # type: ignore[attr-defined]
