"""The convolution of an optimized network: it activates its own output and chooses its algorithm by shape.

The choice is by a fixed rule, not by measuring on the first call, so that the same image gives the same bits in every
run. Weights in an algorithm's own layout are made on first use, and never saved. So are those that are rounded for
autocast to bfloat16, which by itself would round them anew in every call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Limits = tuple[float, float]
"""An activation that clamps to [low, high]: ReLU is (0, inf), ReLU6 (0, 6), none (-inf, inf)."""

Activation = Limits | Literal["silu"]
"""What a convolution does to its output before it writes it: clamp it, or x sigmoid(x)."""

NO_LIMITS: Limits = (-math.inf, math.inf)
RELU: Limits = (0.0, math.inf)
SILU: Activation = "silu"

MAX_LAYOUT_BYTES = 96 << 20
"""Of weights that are kept as oneDNN wants them, besides the plain ones."""
MAX_MATRIX_ROWS = 2048
"""Pixels of a map; above, oneDNN is faster than a product of matrices, and its layouts are few."""
MAX_BATCH_LAYOUTS = 9
"""From so many maps on, one more or less does not change how oneDNN wants the weights."""
MAX_SHAPES = 256
"""Of inputs whose layout is remembered, so that a service's memory has an end."""


class FastConv2d(nn.Conv2d):
    """A convolution, perhaps with a batch normalization and an activation folded in; for inference alone."""

    activation: Activation = NO_LIMITS
    layouts_allowed: bool = True
    """Whether there is memory for weights as oneDNN wants them, or rounded, besides the plain ones."""

    @classmethod
    def of(cls, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, activation: Activation = NO_LIMITS) -> FastConv2d:
        """One with the geometry of `conv` and these weights."""
        fast = cls.__new__(cls)
        nn.Module.__init__(fast)
        fast.__dict__.update({k: v for k, v in conv.__dict__.items() if k != "_parameters"})
        fast.weight = nn.Parameter(weight.detach(), requires_grad=False)
        fast.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        fast.activation = activation
        fast._forget_layouts()
        return fast

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H', W')`, activated."""
        x = as_computed(x)
        arguments = self._onednn_arguments(x)
        if arguments is None:
            return activated(self._linear(x), self.activation)
        attribute, scalars = _onednn_activation(self.activation)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *arguments, attribute, scalars, "")
        return result

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`conv(x) + residual`, activated; overwrites `residual`, whose shape is the output's, and returns it."""
        x = as_computed(x)
        can = residual.dtype == x.dtype and self.activation in (NO_LIMITS, RELU)
        arguments = self._onednn_arguments(x) if can else None
        if arguments is None:
            return activated(residual.add_(self._linear(x)), self.activation)
        relu = None if self.activation == NO_LIMITS else "relu"
        result: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            residual, x, *arguments, "add", 1.0, relu, [], ""
        )
        return result

    def _linear(self, x: Tensor) -> Tensor:
        if self._is_matrix(x):
            return self._as_matrix(x)
        if not self.layouts_allowed or not self._computes_in(x) or _is_watched(x):
            return super().forward(x)
        result: Tensor = self._conv_forward(x, *self._parameters_in(x.dtype))
        return result

    def _as_matrix(self, x: Tensor) -> Tensor:
        """A 1 x 1 convolution as a product of matrices; a channels-last map is one already."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    def _parameters_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, rounded once."""
        if dtype == self.weight.dtype:
            return self.weight, self.bias
        if dtype not in self._rounded:
            self._rounded[dtype] = (self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))
        return self._rounded[dtype]

    # ---- which algorithm -----------------------------------------------------------------------------------------

    def _onednn_arguments(self, x: Tensor) -> tuple[Any, ...] | None:
        """What oneDNN's kernel is called with after `x`; None where torch's own convolution is to do it.

        Found once for all inputs of a shape: on small maps the question takes as long as the answer.
        """
        if _is_watched(x):
            return None
        key = (x.shape, x.dtype, x.device, _autocast_type(), torch.get_num_threads())
        found = self._by_input.get(key, ())  # threads may share the network, and one may clear while another asks
        if found == ():
            if len(self._by_input) >= MAX_SHAPES:
                self._by_input.clear()
                self._by_shape.clear()
            found = self._by_input[key] = self._found_arguments(x)
        return found

    def _found_arguments(self, x: Tensor) -> tuple[Any, ...] | None:
        if not self.layouts_allowed or self._is_plain(x) or self._is_matrix(x):
            return None
        bias = self._parameters_in(x.dtype)[1]
        return self._onednn_weights(x), bias, self.padding, self.stride, self.dilation, self.groups

    def _computes_in(self, x: Tensor) -> bool:
        """Whether the type of `x` is that of the weights, or that to which autocast rounds them."""
        return isinstance(x, Tensor) and (x.dtype == self.weight.dtype or x.dtype == _autocast_type())

    def _is_plain(self, x: Tensor) -> bool:
        """True where torch's own convolution is to do it: other devices and types, gradients, tracing."""
        return (
            not self._computes_in(x)
            or x.device.type != "cpu"
            or x.numel() == 0
            or x.dim() != 4
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
            or _is_watched(x)
            or not onednn_computes_in(x.dtype)
        )

    def _is_matrix(self, x: Tensor) -> bool:
        """Whether to multiply by the plain weights: those of small maps are much larger than the maps, and laying them
        out for oneDNN anew with every size of image takes longer than the convolution."""
        return (
            self.kernel_size == self.stride == (1, 1)
            and self.padding == (0, 0)
            and self.groups == 1
            and not self._is_plain(x)
            and x.dtype == torch.float32
            and len(x) * x.shape[2] * x.shape[3] <= MAX_MATRIX_ROWS
        )

    # ---- weights as oneDNN wants them ----------------------------------------------------------------------------

    def _onednn_weights(self, x: Tensor) -> Tensor:
        """The weights as oneDNN wants them for such an input.

        Its blocks of channels depend on the size of the map: weights that were laid out for another map are laid out
        anew in every call, which takes many times as long as a small map's convolution. So every layout that is met
        is kept; there are two or three.
        """
        shape: tuple[Any, ...] = (x.dtype, min(len(x), MAX_BATCH_LAYOUTS), *x.shape[2:], torch.get_num_threads())
        if self.groups == self.in_channels:  # each channel by itself: always the same layout
            shape = (x.dtype,)
        weights = self._by_shape.get(shape)
        if weights is None:
            weights = self._by_shape[shape] = self._laid_out(x)
        return weights

    def _laid_out(self, x: Tensor) -> Tensor:
        laid_out = torch.ops.mkldnn._reorder_convolution_weight(
            self._parameters_in(x.dtype)[0], self.padding, self.stride, self.dilation, self.groups, list(x.shape)
        )
        return self._by_layout.setdefault((x.dtype, _layout_of(laid_out)), laid_out)

    def _forget_layouts(self) -> None:
        self._rounded: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}
        self._by_input: dict[tuple[Any, ...], tuple[Any, ...] | None] = {}
        self._by_shape: dict[tuple[Any, ...], Tensor] = {}
        self._by_layout: dict[tuple[torch.dtype, bytes], Tensor] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> FastConv2d:
        self._forget_layouts()  # the weights move or change type: so must their copies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget_layouts()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rounded": {}, "_by_input": {}, "_by_shape": {}, "_by_layout": {}}


def ration_layouts(modules: Iterable[nn.Module]) -> None:
    """Say which convolutions may keep their weights in oneDNN's layouts.

    Of a wide network's they would take more memory than all the rest. The narrow ones come first: their maps are the
    large ones, so a byte of theirs saves the most time; laying out a wide one's weights anew in every call takes a
    twentieth of its time.
    """
    room = MAX_LAYOUT_BYTES
    convs = [m for m in modules if isinstance(m, FastConv2d)]
    for conv in sorted(convs, key=lambda conv: conv.weight.numel()):
        room -= conv.weight.numel() * conv.weight.element_size()
        conv.layouts_allowed = room >= 0


def activated(x: Tensor, activation: Activation) -> Tensor:
    """`x` after the activation, in its own memory where no gradient needs the old values."""
    if activation == NO_LIMITS:
        return x
    in_place = not (torch.is_grad_enabled() and x.requires_grad)
    if isinstance(activation, str):
        return F.silu(x, inplace=in_place)
    if not in_place:
        return x.clamp(*activation)
    return F.relu_(x) if activation == RELU else x.clamp_(*activation)


def _is_watched(x: Tensor) -> bool:
    """Whether somebody follows or changes what torch's own operators do: gradients, tracing, compiling, or autocast to
    another type than that of `x`."""
    return (
        torch.compiler.is_compiling()
        or not isinstance(x, Tensor)
        or (torch.is_grad_enabled() and x.requires_grad)
        or _autocast_type() not in (None, x.dtype)
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def _autocast_type() -> torch.dtype | None:
    """What autocast computes convolutions in on the CPU; None outside."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def as_computed(x: Tensor) -> Tensor:
    """`x` as autocast to bfloat16 would round it, where nobody watches."""
    if _autocast_type() != torch.bfloat16 or not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    rounded = x.to(torch.bfloat16) if x.device.type == "cpu" else x
    return x if _is_watched(rounded) else rounded


@functools.cache
def onednn_computes_in(dtype: torch.dtype) -> bool:
    """Whether torch was built with oneDNN, and whether that computes in this type on this CPU."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _layout_of(weights: Tensor) -> bytes:
    """What tells two of oneDNN's layouts apart; the same for all where torch does not say."""
    if not hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md"):
        return b""
    return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(weights).numpy())


def _onednn_activation(activation: Activation) -> tuple[str, list[float]]:
    if isinstance(activation, str):
        return "swish", []
    if activation == NO_LIMITS:
        return "none", []
    return ("relu", []) if activation == RELU else ("hardtanh", list(activation))
