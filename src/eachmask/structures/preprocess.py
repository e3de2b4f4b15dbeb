"""From a stored image to what the network was trained on: one record, saved with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.structures.images import ImageBatch

LOW, HIGH = 1.0, 99.8
"""Percentiles that become 0 and 1 under ``contrast="percentile"``."""


@dataclass(frozen=True)
class Preprocess:
    """Contrast, normalisation, size and padding.

    With ``contrast="range"`` and a short side it does, operation for operation, what torchvision's
    ``GeneralizedRCNNTransform`` does: normalise, then resize bilinearly, then pad with zeros.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of RGB in 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    short_side: int | None = 800
    """Resize so that the shorter side has so many pixels; None keeps the image's own size."""
    long_side: int | None = 1333
    """... unless the longer side would exceed this."""
    fixed_size: tuple[int, int] | None = None
    """Resize to exactly (height, width) instead, whatever the aspect."""
    divisor: int = 32
    """Pad to multiples of this."""
    contrast: Literal["range", "percentile"] = "range"
    """``range``: the data type's full range becomes 0..1. ``percentile``: the image's own 1st and 99.8th
    percentiles do, over all channels at once, as scientific cameras need."""

    def limits(self, image: NDArray[Any]) -> tuple[float, float]:
        """The (low, high) pixel values that become 0 and 1. Tiles of one image share the image's.

        Args:
            image: (H, W, 3) unsigned integers, or floats, where ``range`` means 0..1 already.
        """
        if self.contrast == "range":
            top = float(np.iinfo(image.dtype).max) if np.issubdtype(image.dtype, np.integer) else 1.0
            return 0.0, top
        if image.dtype == np.uint8:  # a histogram is much faster than sorting, and exact
            return _percentiles_of_bytes(image)
        values = image.reshape(-1)
        # A million evenly spaced values put a percentile within 0.01% of its rank.
        values = values[:: max(1, values.size // 1_000_003)].astype(np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            return 0.0, 1.0
        low, high = np.percentile(values, (LOW, HIGH))
        return float(low), float(high)

    def to_float(self, image: NDArray[Any], limits: tuple[float, float] | None = None) -> Tensor:
        """(H, W, 3) -> (3, H, W) float32, stretched to 0..1 and clipped there (``percentile``).

        A constant image becomes 0; what is not a number becomes 0.
        """
        low, high = self.limits(image) if limits is None else limits
        tensor = torch.from_numpy(np.ascontiguousarray(image.astype(np.float32, copy=False))).permute(2, 0, 1)
        if low == 0:
            tensor = tensor / high if high != 1 else tensor
        else:
            tensor = (tensor - low) / (high - low if high > low else 1.0)
        if self.contrast == "percentile":
            tensor = tensor.nan_to_num(0.0).clamp(0, 1)
        return tensor.contiguous()

    def __call__(self, images: Sequence[NDArray[Any]], limits: tuple[float, float] | None = None) -> ImageBatch:
        """Images (H, W, 3) of any sizes -> one batch for the network.

        Args:
            limits: shared contrast limits instead of each image's own.
        """
        mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (self.mean, self.std))
        prepared = [self._resize((self.to_float(image, limits) - mean) / std) for image in images]
        return ImageBatch.from_tensors(prepared, self.divisor)

    def scale(self, height: int, width: int) -> float:
        """Magnification of an image under the two side limits (1 without a short side)."""
        if self.short_side is None:
            return 1.0
        scale = self.short_side / min(height, width)
        return scale if self.long_side is None else min(scale, self.long_side / max(height, width))

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image as the network sees it, before padding."""
        if self.fixed_size is not None:
            return self.fixed_size
        if self.short_side is None:
            return height, width
        scale = self.scale(height, width)
        return int(height * scale), int(width * scale)

    def _resize(self, image: Tensor) -> Tensor:
        if self.fixed_size is not None:
            return F.interpolate(image[None], size=self.fixed_size, mode="bilinear", align_corners=False)[0]
        if self.short_side is None:
            return image
        return F.interpolate(
            image[None], scale_factor=self.scale(*image.shape[1:]), mode="bilinear",
            recompute_scale_factor=True, align_corners=False,
        )[0]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_dict` undoes it."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Preprocess:
        """Undo of :meth:`to_dict`; JSON's lists become tuples."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Preprocess(**known)


def _percentiles_of_bytes(image: NDArray[np.uint8]) -> tuple[float, float]:
    """numpy's linear percentiles of uint8 values, read off their histogram."""
    cumulated = np.cumsum(np.bincount(image.reshape(-1), minlength=256))
    total = int(cumulated[-1])

    def at(percent: float) -> float:
        place = percent / 100 * (total - 1)
        lower, share = int(place), place - int(place)
        a = int(np.searchsorted(cumulated, lower, side="right"))
        b = int(np.searchsorted(cumulated, min(lower + 1, total - 1), side="right"))
        return a + (b - a) * share

    return at(LOW), at(HIGH)
