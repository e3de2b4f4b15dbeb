"""server: models behind HTTP, for programs that are not Python or not on this machine (extra ``serve``)."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
