"""Backbones: learned weights without a task, from images to Features. Thin over torchvision and timm."""

from eachmask.ops.later import compiler_later

with compiler_later():
    import timm

__all__ = ["timm"]
