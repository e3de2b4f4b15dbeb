"""Tasks: one typed record for each kind of result, so that every command serves all of them."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
