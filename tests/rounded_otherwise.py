"""A plugin of pytest: networks compute as on a processor that adds in another order.

    PYTHONPATH=tests python -m pytest -p rounded_otherwise tests/models

What convolutions, linear layers and products of matrices give in float32 is moved by up to eight units in the last
place, in bf16 by up to one, as where AMX adds in another order before it rounds. By how many depends on the value
alone, so that equal numbers stay equal and a run can be repeated; whole numbers, which every processor gets right,
stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HASH = 0x9E3779B1 - (1 << 32)
"""Knuth's multiplier, as an int32."""


def moved(x: Any) -> Any:
    """A tensor of float32 or bf16 with other last bits."""
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.bfloat16) or x.device.type != "cpu" or traced:
        return x
    with torch.no_grad():
        bits = x.detach().contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int16)
        units = (bits.int() * HASH) >> 28  # -8 to 7
        if x.dtype == torch.bfloat16:
            units = units.div(5, rounding_mode="trunc")  # -1 to 1
        other = (bits + units).to(bits.dtype).view(x.dtype)
        change = torch.where((x == x.round()) | ~torch.isfinite(other), 0, other - x)
    return x + change


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def found(*args: Any, **kwargs: Any) -> Any:
        return moved(function(*args, **kwargs))

    return found


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def found(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return result.copy_(moved(result))

    return found


class _Overloads:
    """Stands for an operator of which one overload is called."""

    def __init__(self, function: Any) -> None:
        self.binary = _in_place(function.binary)


def pytest_configure() -> None:
    """Before any test is collected."""
    for name in ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "scaled_dot_product_attention"):
        setattr(F, name, _wrapped(getattr(F, name)))
    for name in ("matmul", "bmm", "mm", "baddbmm", "addmm", "einsum"):  # not conv2d: code asks whether a call is of it
        setattr(torch, name, _wrapped(getattr(torch, name)))
    for name in ("__matmul__", "matmul", "bmm", "mm"):
        setattr(Tensor, name, _wrapped(getattr(Tensor, name)))
    onednn: Any = torch.ops.mkldnn
    onednn._convolution_pointwise = _wrapped(onednn._convolution_pointwise)
    onednn._convolution_pointwise_ = _Overloads(onednn._convolution_pointwise_)
