"""The convolutions of a network that trains on the CPU, each the way that is the fastest."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from eachmask.accel import depthwise_training, is_on, winograd_training

WAYS = {"winograd": winograd_training, "depthwise": depthwise_training}
"""Switch (see :mod:`eachmask.accel`) -> what answers a call of `torch.conv2d`, where it is the faster way."""


class FastConvolutions(TorchFunctionMode):
    """While it is entered, convolutions of maps on the CPU take another way where that is faster.

    Modules stay as they are, and so do their parameters and names; what changes is the rounding, by about the error of
    the direct convolution itself.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            for name, way in WAYS.items():
                fast = way.of_call(*args, **(kwargs or {})) if is_on(name) else None
                if fast is not None:
                    return fast
        return func(*args, **(kwargs or {}))
