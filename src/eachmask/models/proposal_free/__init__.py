"""Objects without proposals: pixels are grouped, cut apart or followed to where they belong."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
