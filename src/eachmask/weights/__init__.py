"""Weights: where they are, what they may be used for, and how foreign ones are read.

``catalogue`` says what can be had by name, ``fetch`` brings it here, ``file`` reads and writes the one kind of model
file; each ``from_...`` module knows one foreign format.
"""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
