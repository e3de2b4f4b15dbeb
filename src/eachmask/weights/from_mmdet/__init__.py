"""MMDetection's official checkpoints, renamed to ours: one file per family, each with a ``convert(state)``."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
