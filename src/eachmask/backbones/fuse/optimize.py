"""All exchanges in one network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from eachmask.backbones.fuse.conv import ration_layouts
from eachmask.backbones.fuse.folding import fold, fold_chain, replace
from eachmask.backbones.fuse.graph import find_chains
from eachmask.backbones.fuse.pyramid import FastFPN, can_be_fast
from eachmask.backbones.fuse.recognize import is_conv
from eachmask.backbones.fuse.residual import fast_stage


def optimize_for_inference(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """A copy of `model` in eval mode, fast on the CPU, equal in its outputs up to rounding.

    The copy shares no parameter with the input, needs no gradients, can be pickled, deep-copied and moved
    to another device or type (where its convolutions become plain ones); optimizing it again changes
    nothing. Batch statistics are frozen into the weights, so it must not be trained.

    Args:
        in_place: change `model` itself, which is then good for nothing else: never are there two sets of weights.
    """
    model = (model if in_place else copy.deepcopy(model)).eval().requires_grad_(False)
    for chain in find_chains(model):
        fold_chain(model, chain)
    for name, module in list(model.named_modules()):
        if is_conv(module):
            model = replace(model, name, fold(module))
    for name, module in list(model.named_modules()):
        if (fast := _fast_form(module)) is not None:
            model = replace(model, name, fast)
    ration_layouts(model.modules())
    return model.to(memory_format=torch.channels_last)


def _fast_form(module: Any) -> nn.Module | None:
    """What takes the place of a module made of several; None where it stays (a pyramid is changed in place)."""
    if type(module) is nn.Sequential and (stage := fast_stage(module)) is not None:
        return stage
    if can_be_fast(module):
        module.__class__ = FastFPN
        return None
    return module.for_inference() if hasattr(module, "for_inference") else None
