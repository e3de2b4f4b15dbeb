"""Files: what is written and read alike everywhere: atomic writes, journals, pages, charts, progress."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
