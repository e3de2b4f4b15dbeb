"""Backbones: learned weights without a task, from images to Features. Thin over torchvision and timm."""
