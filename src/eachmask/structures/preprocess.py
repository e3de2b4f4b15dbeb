"""From a stored image to what the network was trained on: one record, saved with the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures.checks import check_whole
from eachmask.structures.errors import UserError
from eachmask.structures.images import ImageBatch

PERCENTILES = {"percentile": (1.0, 99.8), "stretch": (1.0, 99.0)}
"""Contrast -> the percentiles that become 0 and 1."""

_MAX_PIXELS = 1_000_000
"""So many evenly spaced pixels put a percentile within 0.01% of its rank."""
_BINCOUNT_BLOCK = 1 << 20


@dataclass(frozen=True)
class Preprocess:
    """Contrast, normalization, size and padding.

    With ``contrast="range"`` and a short side it does, operation for operation, what torchvision's
    ``GeneralizedRCNNTransform`` does: normalize, then resize bilinearly, then pad with zeros.

    Raises:
        ValueError: there is no such contrast.

    >>> batch = Preprocess(short_side=64, long_side=128)([np.zeros((100, 150, 3), np.uint8)])
    >>> batch.tensor.shape, batch.sizes  # sides are multiples of 32
    (torch.Size([1, 3, 64, 96]), ((64, 96),))
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of RGB in 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order in which the network wants them; weights that come from Caffe want BGR."""
    short_side: int | None = 800
    """Resize so that the shorter side has so many pixels; None keeps the image's own size."""
    long_side: int | None = 1333
    """... unless the longer side would exceed this."""
    fixed_size: tuple[int, int] | None = None
    """Resize to exactly (height, width) instead, whatever the aspect."""
    magnification: float = 1.0
    """Without a short side: the network sees every image enlarged by this, which small objects can need."""
    divisor: int = 32
    """Pad to multiples of this."""
    contrast: Literal["range", "percentile", "stretch"] = "range"
    """``range``: the data type's full range becomes 0..1. ``percentile``: the image's own 1st and 99.8th
    percentiles do, over all channels at once, as scientific cameras need. ``stretch``: the 1st and 99th do, and what
    lies beyond them stays beyond (Cellpose)."""
    resampling: Literal["bilinear", "antialias", "pil", "pil-bicubic"] = "bilinear"
    """How images get their size: ``bilinear`` reads four pixels for each; ``antialias`` averages where the image
    becomes smaller; ``pil`` does so in whole steps of 8-bit images, as PIL does, and ``pil-bicubic``
    with its bicubic filter."""
    rounding: Literal["down", "nearest"] = "down"
    """How the sides of a resized image become whole numbers."""

    def __post_init__(self) -> None:
        if self.contrast not in ("range", "percentile", "stretch"):
            raise ValueError(f'contrast must be "range", "percentile" or "stretch", not {self.contrast!r}')
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f'channels must be "rgb" or "bgr", not {self.channels!r}')
        if self.resampling not in ("bilinear", "antialias", "pil", "pil-bicubic"):
            kinds = '"bilinear", "antialias", "pil" or "pil-bicubic"'
            raise ValueError(f"resampling must be {kinds}, not {self.resampling!r}")
        if self.rounding not in ("down", "nearest"):
            raise ValueError(f'rounding must be "down" or "nearest", not {self.rounding!r}')

    def at_long_side(self, side: int) -> Preprocess:
        """The same, but the longer side of every image becomes ``side`` px.

        Raises:
            UserError: the model wants one size only or every image in its own size, or the side is less than 32.
        """
        check_whole("longer side in pixels", side, 32)
        if self.fixed_size is not None:
            height, width = self.fixed_size
            raise UserError(f"this model sees every image at {height} x {width} pixels: no other side can be chosen")
        if self.short_side is None:
            times = "" if self.magnification == 1 else f", {self.magnification:g} times enlarged"
            raise UserError(
                f"this model sees images in their own size{times}: no side can be chosen, but images can be resized"
            )
        return replace(self, short_side=side, long_side=side)

    def magnified(self, magnification: float) -> Preprocess:
        """The same, but every image is seen so many times enlarged.

        Raises:
            UserError: the model wants one size only.
        """
        if self.fixed_size is not None:
            height, width = self.fixed_size
            raise UserError(f"this model sees every image at {height} x {width} pixels: objects cannot be made larger")
        return replace(self, short_side=None, long_side=None, magnification=magnification)

    def scaled(self, scale: float) -> Preprocess:
        """The same, but the network sees every image at this share of the usual size.

        Raises:
            UserError: the model wants one size only.
        """
        if scale == 1:
            return self
        if self.fixed_size is not None:
            height, width = self.fixed_size
            raise UserError(f"this model sees every image at {height} x {width} pixels and at no other scale")
        if self.short_side is None:
            return self.magnified(scale * self.magnification)
        long_side = None if self.long_side is None else round(scale * self.long_side)
        return replace(self, short_side=round(scale * self.short_side), long_side=long_side)

    def limits(self, image: NDArray[Any]) -> tuple[float, float]:
        """The (low, high) pixel values that become 0 and 1. Tiles of one image share the image's.

        Args:
            image: (H, W, 3) unsigned integers, or floats, where ``range`` means 0..1 already. Values that are
                not finite do not count.
        """
        if self.contrast in PERCENTILES:
            return _percentiles(image, *PERCENTILES[self.contrast])
        return 0.0, float(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else 1.0

    def to_float(self, image: NDArray[Any], limits: tuple[float, float] | None = None) -> Tensor:
        """(H, W, 3) -> (3, H, W) float32, stretched to 0..1 and, under ``percentile``, clipped there.

        A constant image becomes 0 but under ``range``; what is not a number becomes low, infinities become low
        and high.
        """
        low, high = self.limits(image) if limits is None else limits
        # A copy in the network's layout: writing to it leaves the caller's image alone.
        planes = torch.from_numpy(np.array(image.transpose(2, 0, 1), dtype=np.float32, order="C"))
        if image.dtype.kind == "f":
            planes.nan_to_num_(nan=low, posinf=high, neginf=low)
        if low:
            planes -= low
        if high > low and high - low != 1:
            planes /= high - low
        return planes.clamp_(0, 1) if self.contrast == "percentile" else planes

    def __call__(self, images: Sequence[NDArray[Any]], limits: tuple[float, float] | None = None) -> ImageBatch:
        """Images (H, W, 3) of any sizes -> one batch for the network.

        Args:
            images: unsigned integers, or floats in 0..1 (of any range but under ``range``).
            limits: shared contrast limits instead of each image's own.

        Raises:
            ValueError: there is no image, or one is not (H, W, 3).
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"an image must be (height, width, 3), not {image.shape}")
        prepared = [self._resize(self.normalize(self.to_float(self._in_bytes(i), limits))) for i in images]
        return ImageBatch.from_tensors(prepared, self.divisor)

    def normalize(self, image: Tensor) -> Tensor:
        """(3, H, W) RGB in 0..1 -> what the network wants: mean 0, deviation 1, its order of channels.

        The image given is overwritten.
        """
        mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (self.mean, self.std))
        image = image.sub_(mean).div_(std)
        return image.flip(0) if self.channels == "bgr" else image

    def scale(self, height: int, width: int) -> float:
        """Magnification of an image under the two side limits (the fixed one without a short side)."""
        if self.short_side is None:
            return self.magnification
        scale = self.short_side / min(height, width)
        return scale if self.long_side is None else min(scale, self.long_side / max(height, width))

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image as the network sees it, before padding."""
        if self.fixed_size is not None:
            return self.fixed_size
        scale, more = self.scale(height, width), 0.5 if self.rounding == "nearest" else 0.0
        return max(1, int(height * scale + more)), max(1, int(width * scale + more))

    def _in_bytes(self, image: NDArray[Any]) -> NDArray[Any]:
        """8-bit images resized by PIL, where that is how it is done; all else as it is."""
        size = self.target_size(image.shape[0], image.shape[1])
        if not self.resampling.startswith("pil") or image.dtype != np.uint8 or size == image.shape[:2]:
            return image
        from PIL import Image

        how = Image.Resampling.BILINEAR if self.resampling == "pil" else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(image).resize(size[::-1], how))

    def _resize(self, image: Tensor) -> Tensor:
        size = self.target_size(*image.shape[1:])
        if size == tuple(image.shape[1:]):
            return image
        # The size decides alone, as with interpolate's scale_factor and recompute_scale_factor=True.
        smooth = self.resampling != "bilinear"
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=smooth)[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the header of a model file."""
        return asdict(self)


def _percentiles(image: NDArray[Any], lower: float, upper: float) -> tuple[float, float]:
    """Values at two percentiles, interpolated as numpy does; (0, 1) where nothing is finite."""
    if image.dtype in (np.uint8, np.uint16):  # a histogram is much faster than sorting, and exact
        return _percentiles_of_integers(image, lower, upper)
    pixels = image.reshape(-1, image.shape[-1])
    step = max(1, len(pixels) // _MAX_PIXELS)
    while math.gcd(step, image.shape[1]) > 1:  # else only some columns would be seen
        step += 1
    values = pixels[::step].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (lower, upper))
    return float(low), float(high)


def _percentiles_of_integers(image: NDArray[Any], lower: float, upper: float) -> tuple[float, float]:
    values = image.reshape(-1)
    histogram = np.zeros(np.iinfo(image.dtype).max + 1, np.int64)
    for begin in range(0, values.size, _BINCOUNT_BLOCK):  # bincount makes int64 of all it is given
        histogram += np.bincount(values[begin : begin + _BINCOUNT_BLOCK], minlength=len(histogram))
    cumulated = np.cumsum(histogram)

    def at(percent: float) -> float:
        place = percent / 100 * (values.size - 1)
        first, share = int(place), place - int(place)
        a, b = np.searchsorted(cumulated, [first, min(first + 1, values.size - 1)], side="right").tolist()
        return float(a + (b - a) * share)

    return at(lower), at(upper)
