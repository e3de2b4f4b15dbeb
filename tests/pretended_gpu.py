"""A GPU that is not there: tensors that say they are on ``cuda:0``, while this machine's CPU does their work.

What goes wrong first on a GPU is a tensor that was left in main memory, and that can be found without one. Inside
:func:`pretended_gpu` a tensor made on or moved to ``cuda`` is a :class:`Away`; an operation that mixes one with a
tensor in main memory raises as it would on a real GPU, and so does turning one into NumPy's array. Gradients are not
followed: autograd's engine asks the driver for streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)


class Away(Tensor):
    """A tensor whose numbers are in ``inner``, and whose device is the GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        away: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("meta"),
            dispatch_device=True,
        )
        away.inner = inner
        return away

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        """Torch makes it in main memory and moves it where dispatch does not see it."""
        return torch.tensor(data, dtype=dtype or self.dtype).to(self.device if device is None else device)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.inner!r})"


class _Everywhere(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """While it lasts, the device ``cuda`` can be used."""
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"torch {torch.__version__} moves nothing to a GPU that is only pretended; later ones do")
    torch._C._ensureCUDADeviceGuardSet()
    with (
        mock.patch("torch.cuda._lazy_init"),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=1),
        torch.backends.cudnn.flags(enabled=False),
        _Everywhere(),
    ):
        yield


def _lstm_cell(
    of_input: Tensor, of_hidden: Tensor, cell: Tensor, *biases: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM's step (Hochreiter & Schmidhuber 1997), for which torch has a kernel of its own on GPUs alone."""
    gates = of_input + of_hidden + sum(bias for bias in biases if bias is not None)
    let_in, forget, new, let_out = gates.chunk(4, dim=1)
    after = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
    return let_out.sigmoid() * after.tanh(), after, gates


ELSEWHERE = {torch.ops.aten._thnn_fused_lstm_cell: _lstm_cell}
"""Operations that only a GPU has -> the same here."""


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on the numbers in main memory, and its results where the GPU would have put them."""
    if func is torch.ops.prim.device.default:
        return GPU
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [tensor for tensor in given if isinstance(tensor, Away)]
    moves = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.to)
    if away and not moves:
        left = [tuple(t.shape) for t in given if not isinstance(t, Away) and t.dim() > 0]
        if left:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some of {left} on cpu")
    devices = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    on_gpu = devices[0].type == "cuda" if devices else bool(away)
    here = tree_map_only(Away, lambda tensor: tensor.inner, (args, kwargs))
    here = tree_map_only(torch.device, lambda _: torch.device("cpu"), here)
    with torch.inference_mode(False), torch.no_grad():
        results = ELSEWHERE.get(func.overloadpacket, func)(*here[0], **here[1])
        if not on_gpu:
            return results
        known = {id(tensor.inner): tensor for tensor in away}  # what was changed in place stays the same object
        return tree_map_only(Tensor, lambda result: known[id(result)] if id(result) in known else Away(result), results)
