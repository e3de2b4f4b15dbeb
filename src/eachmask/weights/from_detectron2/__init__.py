"""Checkpoints in Detectron2's layout (and of projects built on it).

One file per family, each with ``convert(state)``.
"""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
