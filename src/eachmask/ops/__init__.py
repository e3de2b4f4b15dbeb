"""Ops: arithmetic on tensors. No learned weights, no training state, no configuration."""

from eachmask.accel.lazy_dynamo import lazy_dynamo

with lazy_dynamo():
    import torchvision

__all__ = ["torchvision"]
