"""One convolution in the place of a chain of modules, and the exchange of modules in a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from eachmask.backbones.fuse.conv import NO_LIMITS, Activation, FastConv2d
from eachmask.backbones.fuse.graph import Chain
from eachmask.backbones.fuse.recognize import activation_of, own_activation, pads_like_tensorflow
from eachmask.backbones.fuse.same import FastConv2dSame


def fold(conv: nn.Conv2d, norm: nn.Module | None = None, activation: Activation = NO_LIMITS) -> FastConv2d:
    """`conv`, then `norm` (a batch norm or None), then `activation`, as one convolution."""
    kind = FastConv2dSame if pads_like_tensorflow(conv) else FastConv2d
    weight, bias = (conv.weight, conv.bias) if norm is None else _folded(conv, norm)
    return kind.of(conv, weight, bias, activation)


def fold_chain(model: nn.Module, chain: Chain) -> None:
    """Put one convolution in the place of a chain, and identities in the place of what it took in."""
    conv: Any = model.get_submodule(chain.conv)
    norm: Any = None if chain.norm is None else model.get_submodule(chain.norm)
    activation = NO_LIMITS if norm is None else own_activation(norm)
    if chain.activation is not None:
        activation = activation_of(model.get_submodule(chain.activation))
        replace(model, chain.activation, nn.Identity())
    # What a convolution cannot do stays a module of its own, and only the normalization is folded.
    rest = nn.Identity() if activation is not None else nn.Sequential(norm.drop, norm.act)
    replace(model, chain.conv, fold(conv, norm, NO_LIMITS if activation is None else activation))
    if chain.norm is not None:
        replace(model, chain.norm, rest)


def replace(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
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
