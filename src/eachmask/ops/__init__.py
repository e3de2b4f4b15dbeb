"""Ops: arithmetic on tensors. No learned weights, no training state, no configuration."""

from eachmask.ops.later import compiler_later

with compiler_later():
    import torchvision

__all__ = ["torchvision"]
