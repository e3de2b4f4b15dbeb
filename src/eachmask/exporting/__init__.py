"""From a model to a file that other runtimes run."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
