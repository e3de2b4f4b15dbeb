"""Plugins: what other programs load of the package; no room knows of this one, and none of the programs is imported."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
