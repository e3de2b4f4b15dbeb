"""Which modules are convolutions, normalizations and activations whose arithmetic is known.

torchvision's and timm's classes are looked up only where these libraries are loaded: else no module of theirs exists.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from eachmask.backbones.fuse.conv import NO_LIMITS, RELU, SILU, Activation


def classes(library: str, *names: str) -> tuple[type[nn.Module], ...]:
    """These classes of a library's module; none where it is not loaded."""
    module = sys.modules.get(library)
    return () if module is None else tuple(getattr(module, name) for name in names)


def is_conv(module: nn.Module) -> bool:
    """Convolutions that are linear in their stored weights: torch's own, and timm's with TensorFlow's padding."""
    return type(module) is nn.Conv2d or pads_like_tensorflow(module)


def pads_like_tensorflow(module: nn.Module) -> bool:
    """timm's `Conv2dSame`."""
    return type(module).__name__ == "Conv2dSame" and type(module).__module__.startswith("timm.")


def is_norm(module: nn.Module, conv: Any) -> bool:
    """Batch norms with fixed statistics for the channels of `conv`, timm's with an activation inside included."""
    torchvisions = classes("torchvision.ops.misc", "FrozenBatchNorm2d")
    timms = classes("timm.layers", "FrozenBatchNormAct2d")
    if not isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm, *torchvisions, *timms)):
        return False
    statistics = getattr(module, "running_var", None)
    return statistics is not None and int(statistics.shape[0]) == conv.out_channels


def activation_of(module: nn.Module) -> Activation | None:
    """What an activation does that a convolution can do by itself; None for any other module."""
    if type(module) is nn.ReLU:
        return RELU
    if type(module) is nn.ReLU6:
        return (0.0, 6.0)
    if type(module) is nn.SiLU:
        return SILU
    return NO_LIMITS if type(module) is nn.Identity else None


def own_activation(norm: nn.Module) -> Activation | None:
    """What timm's BatchNormAct2d does after normalizing; None if a convolution cannot do that."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if not isinstance(drop, nn.Identity | None) or not isinstance(act, nn.Module | None):
        return None
    return NO_LIMITS if act is None else activation_of(act)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody looks at its inputs or outputs, so that it has to stay."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
