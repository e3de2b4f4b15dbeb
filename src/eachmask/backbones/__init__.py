"""Backbones: learned weights without a task, from images to Features. Thin over torchvision and timm."""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
