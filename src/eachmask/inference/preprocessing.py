"""Images on their way to the network: what is much larger than the network's size is never turned into floats whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from eachmask.structures import ImageBatch, Preprocess

LARGE = 40_000_000
"""Pixels from which an image that the network sees much smaller anyway is reduced before it becomes floats."""


def size_of(image: NDArray[Any]) -> tuple[int, int]:
    """(height, width) of an array (H, W, 3)."""
    return int(image.shape[0]), int(image.shape[1])


def reduced(image: NDArray[Any], preprocess: Preprocess) -> NDArray[Any]:
    """A very large image at twice the size that the network sees: as floats it would not fit."""
    height, width = size_of(image)
    target = tuple(2 * side for side in preprocess.target_size(height, width))
    if height * width <= LARGE or target[0] >= height or target[1] >= width:
        return image
    return cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA)


def preprocessed(preprocess: Preprocess, image: NDArray[Any], limits: tuple[float, float]) -> ImageBatch:
    """A batch of one image, as ``preprocess`` makes it, up to rounding.

    Bilinear resizing reads four pixels for each that it writes. Of an image that becomes much smaller only those
    are turned into floats: all of 4000 x 4000 would take 0.4 GB and two seconds.

    Args:
        image: (H, W, 3) as :class:`Preprocess` takes it.
        limits: the pixel values that become 0 and 1.
    """
    if preprocess.resampling != "bilinear":
        return preprocess([image], limits=limits)
    size, target = size_of(image), preprocess.target_size(*size_of(image))
    (rows, down), (columns, across) = (_read_by_resizing(*sides) for sides in zip(size, target, strict=True))
    if 2 * len(rows) * len(columns) > image.shape[0] * image.shape[1]:
        return preprocess([image], limits=limits)
    at_own_size = replace(preprocess, fixed_size=None, short_side=None, magnification=1.0, divisor=1)
    read = at_own_size([image[rows[:, None], columns]], limits=limits).tensor[0]
    lines = torch.lerp(read[:, :, 0::2], read[:, :, 1::2], across)
    resized = torch.lerp(lines[:, 0::2], lines[:, 1::2], down[:, None])
    return ImageBatch.from_tensors([resized], preprocess.divisor)


def _read_by_resizing(length: int, target: int) -> tuple[NDArray[np.int64], torch.Tensor]:
    """What bilinear interpolation from ``length`` to ``target`` samples reads, as torch does it without antialiasing.

    Returns:
        (2 target,) indices, of the sample before and the one after each place; (target,) share of the latter.
    """
    # A ramp, resized, is the place that each sample is read from. Asked of torch and not computed here, for its kernels
    # round at different steps; three channels in an image's order, so that the image's kernel answers.
    ramp = torch.arange(length, dtype=torch.float32).expand(1, 3, 1, -1).contiguous(memory_format=torch.channels_last)
    places = F.interpolate(ramp, size=(1, target), mode="bilinear", align_corners=False)[0, 0, 0].numpy()
    before = places.astype(np.int64)
    after = np.minimum(before + 1, length - 1)
    return np.stack([before, after], axis=1).reshape(-1), torch.from_numpy(places - before.astype(np.float32))
