"""What networks that are handed a clean photograph of the background have in common.

Shapes: B images of H x W px in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.matting.network import laid_on
from eachmask.structures import ImageBatch
from eachmask.structures.backdrop import Backdrop

STRIDE = 4
"""Sides are padded to multiples of it, px."""


def paired(images: ImageBatch, given: Sequence[Any] | None) -> Tensor:
    """(B, 6, H, W) images and their backgrounds, H and W multiples of 4.

    Raises:
        UserError: no background is given.
    """
    wish = "background matting compares the image with one of its background alone: give --background"
    behind = laid_on(torch.zeros_like(images.tensor), given, lambda one: one.colors, Backdrop, wish)
    bottom, right = (-side % STRIDE for side in images.tensor.shape[2:])
    return F.pad(torch.cat([images.tensor, behind], 1), (0, right, 0, bottom))
