"""Every pixel and every object: semantic and panoptic networks with learned queries or merged heads."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
