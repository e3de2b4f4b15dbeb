"""Batch: many images into a folder of results, resumed after a crash."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
