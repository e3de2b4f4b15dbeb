"""Video: networks that remember what they saw."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
