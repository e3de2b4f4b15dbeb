"""Ops: arithmetic on tensors. No learned weights, no training state, no configuration."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
