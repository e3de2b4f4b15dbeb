"""Samples with trimaps made of their mattes, for models that take them: of any width, drawn well or roughly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.sample import Sample
from eachmask.structures import RLE, Matte, Trimap


@dataclass(frozen=True)
class Trimapped:
    """The sample with a trimap as a person draws one, or as a model's mask becomes one."""

    exact: float = 0.5
    """Share of trimaps that a careful person drew: all that is half transparent is left open. The rest are bands along
    outlines."""
    widest: float = 0.08
    """Reach of the widest band to either side, as a share of the shorter side (of a careful one) or of the root of the
    object's area."""

    def __call__(
        self, sample: Sample[Any], rng: np.random.Generator, others: Callable[[], Sample[Any]] | None = None
    ) -> Sample[Any]:
        """Draw one trimap.

        Args:
            sample: its targets are a :class:`~eachmask.structures.Matte`.
            others: of a mix; none are wanted.
        """
        alpha: NDArray[np.float32] = sample.targets.alpha.float().numpy()
        draw = careful if is_thin(sample.targets) or rng.random() < self.exact else rough
        return replace(sample, given=draw(alpha, rng, self.widest))


def is_thin(matte: Matte) -> bool:
    """Whether less than half of what is there is solid, as of smoke and glass: no mask means them.

    >>> is_thin(Matte(torch.tensor([[0.0, 0.3, 0.3, 1.0]]))), is_thin(Matte(torch.tensor([[0.0, 0.3, 1.0, 1.0]])))
    (True, False)
    """
    return bool((matte.alpha > 0.98).sum() < 0.5 * (matte.alpha > 0.02).sum())


def automatic(matte: Matte, width: float = 0.05) -> Trimap:
    """A band around the hard mask, as `eachmask matte` makes one of the mask that a model finds.

    Args:
        width: see :meth:`Trimap.from_mask`.
    """
    return Trimap.from_mask(RLE.from_bitmaps((matte.alpha > 0.5).cpu().numpy()[None]), width)


def careful(alpha: NDArray[np.float32], rng: np.random.Generator, widest: float) -> Trimap:
    """What is half transparent, and some pixels to either side of it."""
    reach = int(rng.integers(1, 2 + round(widest / 2 * min(alpha.shape))))
    return around(alpha, reach)


def around(alpha: NDArray[np.float32], reach: int) -> Trimap:
    """Unknown is what is half transparent and what lies at most ``reach`` px from it, or from an outline."""
    solid, clear = (alpha > 0.98).astype(np.uint8), (alpha < 0.02).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    values = np.full(alpha.shape, 128, np.uint8)
    values[cv2.erode(solid, kernel) > 0] = 255
    values[cv2.erode(clear, kernel) > 0] = 0
    return Trimap(torch.from_numpy(values))


def rough(alpha: NDArray[np.float32], rng: np.random.Generator, widest: float) -> Trimap:
    """A band along the outline of a mask that is not quite right: rounded, a little too small or too large."""
    side = min(alpha.shape)
    blurred = cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(0.3, 0.012 * side + 0.5)))
    mask = RLE.from_bitmaps((blurred > rng.uniform(0.3, 0.7))[None])
    return Trimap.from_mask(mask, float(rng.uniform(0.02, widest)))
