"""Backbones: learned weights without a task, from images to Features. Thin over torchvision and timm."""

from eachmask.accel.lazy_dynamo import lazy_dynamo

with lazy_dynamo():
    import timm

__all__ = ["timm"]
