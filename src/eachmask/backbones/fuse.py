"""Make a trained network fast on the processor without changing what it computes.

`optimize_for_inference` returns a copy in which

* batch normalization is folded into the convolution before it (`w x + b` is an affine map; so is the
  normalization with fixed statistics, and one affine map after another is one affine map),
* activation and residual addition ride on the convolution's own write instead of passing over memory again,
* maps lie channels-last, which spares oneDNN a reordering of every input and output,
* 3x3 convolutions run as Winograd F(4x4, 3x3) where that is faster (`eachmask.accel.winograd`),
* TensorFlow's padding, one more zero after than before, is in the kernel instead of a padded copy of the map.

**What may be folded is proven, not guessed.** A network's attributes say nothing about the order of calls,
so `torch.fx` follows the forward code; a batch norm is folded only if every call of it takes the output of
the same convolution, which nobody else reads. Code that fx cannot follow is searched part by part; unknown
modules stay as they are; a module with a faster twin of its own names it by a method `for_inference()`.
The forward code of all modules stays the same and keeps its attributes and verbs:
only the leaves are exchanged, a folded batch norm for `nn.Identity`. Residual blocks of torchvision's
ResNets are exchanged whole.

Shapes: maps `(N, C, H, W)`.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d

from eachmask.accel import winograd
from eachmask.accel.malloc import give_back_freed_memory
from eachmask.backbones.fpn import FPN

Limits = tuple[float, float]
"""An activation that clamps to [low, high]: ReLU is (0, inf), ReLU6 (0, 6), none (-inf, inf)."""

NO_LIMITS: Limits = (-math.inf, math.inf)
_MIN_WINOGRAD_CHANNELS = 96  # below, the additions of the transforms outweigh the saved multiplications
_WIDE, _MIN_WIDE_TILES = 1 << 21, 128  # numbers in weights that take 36 MB so, for which it has to be worth more
_MOST_WEIGHTS = 384 << 20  # bytes of all weights and their Winograd forms together; see `_ration_forms`
_MOST_LAYOUTS = 96 << 20  # bytes of weights that are kept as oneDNN wants them, besides the plain ones
_MOST_MATRIX_ROWS = 2048  # pixels; above, oneDNN is faster, and its layouts are few
_LARGE_WEIGHTS = 1 << 19  # numbers; before laying these out, freed memory is given back
_MANY_MAPS = 9  # from here on, one more or less does not change how oneDNN wants the weights
_MANY_SHAPES = 256  # of inputs whose layout is remembered, so that a service's memory has an end


def optimize_for_inference(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """A copy of `model` in eval mode, fast on the processor, equal in its outputs up to rounding.

    The copy shares no parameter with the input, needs no gradients, can be pickled, deep-copied and moved
    to another device or type (where its convolutions become plain ones); optimizing it again changes
    nothing. Batch statistics are frozen into the weights, so it must not be trained.

    Args:
        in_place: change `model` itself, which is then good for nothing else: never are there two sets of weights.
    """
    model = (model if in_place else copy.deepcopy(model)).eval().requires_grad_(False)
    for chain in _chains(model):
        _fold(model, chain)
    for name, module in list(model.named_modules()):
        if _is_conv(module):
            model = _replace(model, name, _twin_of(module).fold(module))
    for name, module in list(model.named_modules()):
        if type(module) is nn.Sequential and (stage := _stage(module)) is not None:
            model = _replace(model, name, stage)
        elif type(module) is FPN and all(_only_conv(m) is not None for m in module.lateral):
            module.__class__ = FastFPN
        elif hasattr(module, "for_inference"):
            model = _replace(model, name, module.for_inference())
    _ration_forms(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


# ---- the convolution ------------------------------------------------------------------------------


class FastConv2d(nn.Conv2d):
    """A convolution that clamps its own output and chooses its algorithm by shape.

    The choice is by a fixed rule, not by measuring on the first call, so that the same image gives the
    same bits in every run. Weights in an algorithm's own layout are made on first use, and never saved.
    """

    limits: Limits = NO_LIMITS
    winograd_allowed: bool = True
    """Whether there is memory for the Winograd form of the weights."""
    layouts_allowed: bool = True
    """Whether there is memory for weights as oneDNN wants them, besides the plain ones."""

    @classmethod
    def fold(cls, conv: nn.Conv2d, norm: nn.Module | None = None, limits: Limits = NO_LIMITS) -> FastConv2d:
        """`conv`, then `norm` (a batch norm or None), then clamping to `limits`, as one convolution."""
        fused = cls.__new__(cls)
        nn.Module.__init__(fused)
        fused.__dict__.update({k: v for k, v in conv.__dict__.items() if k != "_parameters"})
        weight, bias = (conv.weight, conv.bias) if norm is None else _folded(conv, norm)
        fused.weight = nn.Parameter(weight.detach(), requires_grad=False)
        fused.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        fused.limits = limits
        fused._forget_layouts()
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H', W')`, clamped to `limits`."""
        if self._plain(x):
            return _clamp(super().forward(x), self.limits)
        if self._winograd_pays(x):
            return winograd.conv3x3(x, self._winograd_weights(), self.bias, limits=self.limits)
        if self._matrix_pays(x):
            return _clamp(self._as_matrix(x), self.limits)
        if not self.layouts_allowed:
            return _clamp(super().forward(x), self.limits)
        attribute, scalars = _onednn_activation(self.limits)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._onednn_weights(x), *self._geometry(), attribute, scalars, ""
        )

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`conv(x) + residual`, clamped; overwrites `residual`, whose shape is the output's, and returns it."""
        in_one_call = not (self._plain(x) or self._winograd_pays(x) or self._matrix_pays(x))
        if not in_one_call or not self.layouts_allowed or self.limits not in (NO_LIMITS, (0.0, math.inf)):
            return _clamp(residual.add_(self._unclamped(x)), self.limits)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            residual,
            x,
            self._onednn_weights(x),
            *self._geometry(),
            "add",
            1.0,
            "relu" if self.limits[0] == 0 else None,
            [],
            "",
        )

    def _unclamped(self, x: Tensor) -> Tensor:
        if not self._plain(x):
            if self._winograd_pays(x):
                return winograd.conv3x3(x, self._winograd_weights(), self.bias)
            if self._matrix_pays(x):
                return self._as_matrix(x)
        return super().forward(x)

    def _as_matrix(self, x: Tensor) -> Tensor:
        """A 1 x 1 convolution as a product of matrices; a channels-last map is one already."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    def _geometry(self) -> tuple[Any, ...]:
        return self.bias, self.padding, self.stride, self.dilation, self.groups

    def _plain(self, x: Tensor) -> bool:
        """True where only torch's own convolution will do: other devices and types, gradients, tracing."""
        return (
            not isinstance(x, Tensor)
            or x.device.type != "cpu"
            or x.dtype not in (torch.float32, torch.bfloat16)
            or x.dtype != self.weight.dtype
            or (x.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported())
            or x.numel() == 0
            or x.dim() != 4
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
            or (torch.is_grad_enabled() and x.requires_grad)
            or torch.is_autocast_enabled("cpu")
            or torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or not _has_onednn()
        )

    def suits_winograd(self) -> bool:
        """Whether the algorithm fits, for large enough maps."""
        return (
            self.kernel_size == (3, 3)
            and self.stride == self.padding == self.dilation == (1, 1)
            and self.groups == 1
            and min(self.in_channels, self.out_channels) >= _MIN_WINOGRAD_CHANNELS
        )

    def _winograd_pays(self, x: Tensor) -> bool:
        return (
            self.winograd_allowed
            and self.suits_winograd()
            and x.dtype == torch.float32
            and winograd.pays(self.in_channels, self.out_channels, winograd.tiles_of(x))
            and (self.weight.numel() < _WIDE or winograd.tiles_of(x) >= _MIN_WIDE_TILES)
        )

    def _matrix_pays(self, x: Tensor) -> bool:
        """Whether to multiply by the plain weights: those of small maps are much larger than the maps, and laying them
        out for oneDNN anew with every size of image takes longer than the convolution."""
        return (
            self.kernel_size == self.stride == (1, 1)
            and self.padding == (0, 0)
            and self.groups == 1
            and x.dtype == torch.float32
            and len(x) * x.shape[2] * x.shape[3] <= _MOST_MATRIX_ROWS
        )

    def _winograd_weights(self) -> Tensor:
        if self._winograd is None:
            if self.weight.numel() >= _LARGE_WEIGHTS:
                give_back_freed_memory()
            self._winograd = winograd.transform_weights(self.weight)
        return self._winograd

    def _onednn_weights(self, x: Tensor) -> Tensor:
        """The weights as oneDNN wants them for such an input.

        Its blocks of channels depend on the size of the map: weights that were laid out for another map are laid out
        anew in every call, which takes many times as long as a small map's convolution. So every layout that is met
        is kept; there are two or three.
        """
        shape: tuple[int, ...] = (min(len(x), _MANY_MAPS), *x.shape[2:], torch.get_num_threads())
        if self.groups == self.in_channels:  # each channel by itself: always the same layout
            shape = ()
        weights = self._by_shape.get(shape)
        if weights is None:
            laid_out = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
            weights = self._by_layout.setdefault(_layout_of(laid_out), laid_out)
            if len(self._by_shape) >= _MANY_SHAPES:
                self._by_shape.clear()
            self._by_shape[shape] = weights
        return weights

    def _forget_layouts(self) -> None:
        self._winograd: Tensor | None = None
        self._by_shape: dict[tuple[int, ...], Tensor] = {}
        self._by_layout: dict[bytes, Tensor] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> FastConv2d:
        self._forget_layouts()  # the weights move or change type: so must their copies
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget_layouts()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_winograd": None, "_by_shape": {}, "_by_layout": {}}


class FastConv2dSame(FastConv2d):
    """One with TensorFlow's padding, the output `ceil(size / stride)`: where the zeros are odd, one more comes after.

    oneDNN pads both sides alike. With a row of zeros before the kernel's own, and the larger padding on both sides,
    the same weights meet the same pixels, and no padded copy of the map is made.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H', W')`, clamped to `limits`."""
        (top, bottom), (left, right) = self._zeros(x.shape[2], 0), self._zeros(x.shape[3], 1)
        if self._plain(x) or self.dilation != (1, 1):
            x = F.pad(x, (left, right, top, bottom))
            return _clamp(F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups), self.limits)
        return self._alike(top, bottom, left, right)(x)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """As `FastConv2d.add_to`."""
        raise NotImplementedError("no network adds to a convolution with TensorFlow's padding")

    def _zeros(self, size: int, axis: int) -> tuple[int, int]:
        """Before and after."""
        step, reach = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1)
        total = max(0, (-(-size // step) - 1) * step + reach + 1 - size)
        return total // 2, total - total // 2

    def _alike(self, top: int, bottom: int, left: int, right: int) -> FastConv2d:
        """The convolution with the same padding on both sides that does the same."""
        key = (top, bottom, left, right)
        if key not in self._by_zeros:
            weight = F.pad(self.weight, (right - left, 0, bottom - top, 0))
            conv = nn.Conv2d(
                self.in_channels, self.out_channels, (weight.shape[2], weight.shape[3]), self.stride, (bottom, right),
                groups=self.groups, bias=False, device="meta",
            )  # fmt: skip
            conv.weight = nn.Parameter(weight, requires_grad=False)
            conv.bias = self.bias
            self._by_zeros[key] = FastConv2d.fold(conv, limits=self.limits).eval()
            self._by_zeros[key].layouts_allowed = self.layouts_allowed
        return self._by_zeros[key]

    def _forget_layouts(self) -> None:
        super()._forget_layouts()
        self._by_zeros: dict[tuple[int, ...], FastConv2d] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_by_zeros": {}}


def _layout_of(weights: Tensor) -> bytes:
    """What tells two of oneDNN's layouts apart; the same for all where torch does not say."""
    if not hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md"):
        return b""
    return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(weights).numpy())


def _ration_forms(model: nn.Module) -> None:
    """Say which convolutions may keep further forms of their weights: Winograd's, four times as large, or oneDNN's.

    Of a wide network's they would take more memory than all the rest. The narrow ones come first: their maps are the
    large ones, so a byte of theirs saves the most time; laying out a wide one's weights anew in every call takes a
    twentieth of its time.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    for_winograd, for_layouts = _MOST_WEIGHTS - weights, _MOST_LAYOUTS
    convs = [m for m in model.modules() if isinstance(m, FastConv2d)]
    for conv in sorted(convs, key=lambda conv: conv.weight.numel()):
        size = conv.weight.numel() * conv.weight.element_size()
        if conv.suits_winograd():
            for_winograd -= 4 * size
            conv.winograd_allowed = for_winograd >= 0
        for_layouts -= size
        conv.layouts_allowed = for_layouts >= 0


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _clamp(x: Tensor, limits: Limits) -> Tensor:
    if limits == NO_LIMITS:
        return x
    if torch.is_grad_enabled() and x.requires_grad:
        return x.clamp(*limits)
    return F.relu_(x) if limits == (0.0, math.inf) else x.clamp_(*limits)


def _onednn_activation(limits: Limits) -> tuple[str, list[float]]:
    if limits == NO_LIMITS:
        return "none", []
    return ("relu", []) if limits == (0.0, math.inf) else ("hardtanh", list(limits))


def _folded(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of `norm(conv(x))` with the norm's running statistics, computed in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


# ---- residual blocks ------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """A folded ResNet block: convolutions, then addition of the shortcut and ReLU in the last one's write."""

    def __init__(self, convs: list[FastConv2d], shortcut: nn.Module | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.shortcut = shortcut

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """`overwrite` lets the result take the memory of `x`, which the caller then must not read again."""
        if self.shortcut is not None:
            residual = self.shortcut(x)
        else:
            residual = x if overwrite else x.clone()
        for conv in self.convs[:-1]:
            x = conv(x)
        last: Any = self.convs[-1]
        return last.add_to(residual, x)  # type: ignore[no-any-return]


class ResidualStage(nn.Sequential):
    """Residual blocks in a row. Only the next block reads a block's output, so it may overwrite it."""

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self):
            x = block(x, overwrite=i > 0 and not (torch.is_grad_enabled() and x.requires_grad))
        return x


def _stage(blocks: nn.Sequential) -> ResidualStage | None:
    """The stage for a Sequential of torchvision's residual blocks with nothing but folded convolutions."""
    fused = [_block(b) for b in blocks]
    return ResidualStage(*fused) if fused and all(b is not None for b in fused) else None  # type: ignore[arg-type]


def _block(block: nn.Module) -> ResidualBlock | None:
    if type(block) not in (Bottleneck, BasicBlock) or any(_hooked(m) for m in block.modules()):
        return None
    names = ["1", "2", "3"] if isinstance(block, Bottleneck) else ["1", "2"]
    convs = [getattr(block, "conv" + n) for n in names]
    norms = [getattr(block, "bn" + n) for n in names]
    if not all(type(c) is FastConv2d for c in convs) or not all(type(n) is nn.Identity for n in norms):
        return None
    for conv in convs:
        conv.limits = (0.0, math.inf)
    shortcut = block.downsample
    return ResidualBlock(convs, shortcut if isinstance(shortcut, nn.Module) else None)


# ---- the pyramid ----------------------------------------------------------------------------------


class FastFPN(FPN):
    """A pyramid whose 1x1 convolutions add to the upsampled map in their own write."""

    def merged(self, index: int, below: Tensor, above: Tensor) -> Tensor:
        """As `FPN.merged`."""
        lateral = _only_conv(self.lateral[index])
        if lateral is None or self.pyramid.merge != "sum":
            return super().merged(index, below, above)
        return lateral.add_to(self.doubled(above, below), below)


def _only_conv(module: nn.Module) -> FastConv2d | None:
    """The convolution that `module` is, or that alone is left of it after folding."""
    parts = list(module) if type(module) is nn.Sequential else [module]
    alone = type(parts[0]) is FastConv2d and all(type(p) is nn.Identity for p in parts[1:])
    return parts[0] if alone else None  # type: ignore[return-value]


# ---- what follows what ----------------------------------------------------------------------------

Chain = tuple[str, str | None, str | None]
"""Names of a convolution, of the batch norm and of the clamping activation that always follow it."""


def _chains(model: nn.Module) -> list[Chain]:
    """All provable chains with a batch norm or an activation in them."""
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    chains: list[Chain] = []
    for prefix, graph in _graphs(model, ""):
        chains += [
            c
            for c in _chains_in(model, prefix, graph)
            if all(len(names[model.get_submodule(n)]) == 1 for n in c if n is not None)  # not shared elsewhere
        ]
    return chains


def _graphs(module: nn.Module, prefix: str) -> Iterator[tuple[str, fx.Graph]]:
    """Traces of the largest parts that fx can follow, with the name of each part."""
    if not _worth_tracing(module):
        return
    tracer = _Tracer()
    try:
        defaults = {
            p.name: p.default
            for p in inspect.signature(module.forward).parameters.values()
            if p.default is not inspect.Parameter.empty
        }
        yield prefix, tracer.trace(module, concrete_args=defaults)
    except Exception:  # the forward code decides by values, loops over inputs, ...: any error may come of it
        for name, child in module.named_children():
            yield from _graphs(child, f"{prefix}.{name}" if prefix else name)
    finally:
        tracer.__dict__.clear()  # it refers to itself, and would keep the modules that are exchanged for a long time


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _worth_tracing(m)


def _worth_tracing(module: nn.Module) -> bool:
    """True for a module made of parts, some of which might be folded."""
    inner = [m for m in module.modules() if m is not module]
    return any(_is_conv(m) for m in inner) and not isinstance(module, (ResidualBlock, ResidualStage))


def _chains_in(model: nn.Module, prefix: str, graph: fx.Graph) -> Iterator[Chain]:
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    read: set[str] = set()  # modules whose parameters the forward code also uses by itself
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
        elif node.op == "get_attr":
            read.add(str(node.target).rpartition(".")[0])

    def module(name: str) -> nn.Module:
        return model.get_submodule(f"{prefix}.{name}" if prefix else name)

    def follower(name: str) -> str | None:
        """The one module that reads all outputs of `name`, and nothing else."""
        after = {tuple(node.users) for node in calls[name]}
        nexts = {str(users[0].target) for users in after if len(users) == 1 and users[0].op == "call_module"}
        if len(nexts) != 1 or any(len(users) != 1 or users[0].op != "call_module" for users in after):
            return None
        (found,) = nexts
        plain = len(calls[found]) == len(calls[name]) and found not in read and not _hooked(module(found))
        return found if plain and all(len(n.args) == 1 and not n.kwargs for n in calls[found]) else None

    for name in calls:
        if not _is_conv(module(name)) or name in read or _hooked(module(name)):
            continue
        norm = follower(name)
        if norm is None or not _is_norm(module(norm), module(name)):
            norm, last = None, name
        else:
            last = norm
        act = follower(last) if norm is None or _own_limits(module(norm)) == NO_LIMITS else None
        if act is not None and _limits(module(act)) is None:
            act = None
        if norm is not None or act is not None:
            yield tuple((f"{prefix}.{n}" if prefix else n) if n else None for n in (name, norm, act))  # type: ignore[misc]


def _is_conv(module: nn.Module) -> bool:
    """Convolutions that are linear in their stored weights: torch's own, and timm's with TensorFlow's padding."""
    return type(module) is nn.Conv2d or _pads_like_tensorflow(module)


def _pads_like_tensorflow(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv2dSame" and type(module).__module__.startswith("timm.")


def _twin_of(conv: nn.Module) -> type[FastConv2d]:
    return FastConv2dSame if _pads_like_tensorflow(conv) else FastConv2d


def _is_norm(module: nn.Module, conv: Any) -> bool:
    """Batch norms with fixed statistics for the channels of `conv`, timm's with an activation inside included."""
    frozen = isinstance(module, FrozenBatchNorm2d)
    known = isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d)
    timm = sys.modules.get("timm.layers")  # imported already if the model uses it
    known = known or (timm is not None and isinstance(module, timm.FrozenBatchNormAct2d))
    if not known or (not frozen and getattr(module, "running_var", None) is None):
        return False
    return int(module.running_var.shape[0]) == conv.out_channels  # type: ignore[index, union-attr]


def _limits(module: nn.Module) -> Limits | None:
    """The limits of a clamping activation; None for any other module."""
    if type(module) is nn.ReLU:
        return (0.0, math.inf)
    if type(module) is nn.ReLU6:
        return (0.0, 6.0)
    return NO_LIMITS if type(module) is nn.Identity else None


def _own_limits(norm: nn.Module) -> Limits | None:
    """What timm's BatchNormAct2d does after normalizing; None if that is more than clamping."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if not isinstance(drop, nn.Identity | None) or not isinstance(act, nn.Module | None):
        return None
    return NO_LIMITS if act is None else _limits(act)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


# ---- the exchange ---------------------------------------------------------------------------------


def _fold(model: nn.Module, chain: Chain) -> None:
    """Put one convolution in the place of a chain, and identities in the place of what it took in."""
    conv_name, norm_name, act_name = chain
    conv: Any = model.get_submodule(conv_name)
    norm: Any = None if norm_name is None else model.get_submodule(norm_name)
    limits = NO_LIMITS if norm is None else _own_limits(norm)
    rest: nn.Module = nn.Identity()
    if act_name is not None:
        limits = _limits(model.get_submodule(act_name))
    if limits is None:
        # Only the normalization fits into this one: what follows stays a module of its own.
        if norm is not None and _own_limits(norm) != NO_LIMITS:
            rest = nn.Sequential(norm.drop, norm.act)
        limits, act_name = NO_LIMITS, None
    _replace(model, conv_name, _twin_of(conv).fold(conv, norm, limits))
    if norm_name is not None:
        _replace(model, norm_name, rest)
    if act_name is not None:
        _replace(model, act_name, nn.Identity())


def _replace(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put `new` where `name` is, in every place that holds the same module; returns the (new) root."""
    old = model.get_submodule(name)
    if old is model:
        return new
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if child is old:
                parent._modules[child_name] = new
    new.train(old.training)
    return model
