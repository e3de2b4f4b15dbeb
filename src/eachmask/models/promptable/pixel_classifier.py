"""Pixel classifier: scribbles on each kind of pixel, a random forest, and the image is painted in seconds.

The way of ilastik (Berg et al.: "ilastik: interactive machine learning for (bio)image analysis", Nature Methods 2019),
written anew: what a pixel and its surroundings look like at several scales, and a random forest (Breiman, 2001) that
learns from the few pixels that somebody marked.

:class:`PixelClassifier` takes arrays of any type and any number of channels and any number of kinds; as a model that
answers prompts it knows two, the object and the rest. It finds all that looks like what was marked, not one thing.

Shapes: H x W px, C channels, F features, K kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eachmask.models.promptable.without_learning import OBJECT, BrushConfig, Classic, Marks
from eachmask.structures import UserError

Floats = NDArray[np.float32]
MISSING = "the pixel classifier needs scikit-learn: pip install 'eachmask[classic]'"


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    brush: BrushConfig = BrushConfig(max_side=1024)
    scales: tuple[float, ...] = (0.7, 1.6, 3.5, 7.0)
    """Standard deviations of the smoothing, px."""
    trees: int = 100
    depth: int = 12
    max_marked: int = 20_000
    """So many marked pixels of a kind are learnt from."""


def features(image: NDArray[Any], scales: tuple[float, ...] = Config.scales) -> Floats:
    """What each pixel's surroundings look like.

    Per channel and scale: smoothed value, Laplacian of Gaussian, gradient magnitude, both eigenvalues of the
    structure tensor and of the Hessian, the larger first. Channels are scaled to mean 0 and deviation 1, so that 16
    bits do as well as 8.

    Args:
        image: (H, W) or (H, W, C) of any number type.

    Returns:
        (H, W, F) with F = 7 C times the number of scales.
    """
    planes = np.asarray(image, np.float32)
    planes = planes[..., None] if planes.ndim == 2 else planes
    spread = planes.std((0, 1))
    planes = (planes - planes.mean((0, 1))) / np.where(spread > 0, spread, 1)
    found = [_at_scale(planes[..., c], scale) for c in range(planes.shape[2]) for scale in scales]
    return np.concatenate(found, axis=2)


def _at_scale(plane: Floats, scale: float) -> Floats:
    """(H, W) -> (H, W, 7)."""

    def smoothed(x: Floats, order: tuple[int, int] = (0, 0), sigma: float = scale) -> Floats:
        return np.asarray(ndimage.gaussian_filter(x, sigma, order=order, mode="nearest"))

    dy, dx = smoothed(plane, (1, 0)), smoothed(plane, (0, 1))
    yy, yx, xx = smoothed(plane, (2, 0)), smoothed(plane, (1, 1)), smoothed(plane, (0, 2))
    wide = 2 * scale
    tensor = [smoothed(a * b, sigma=wide) for a, b in ((dy, dy), (dy, dx), (dx, dx))]
    values = [smoothed(plane), yy + xx, np.hypot(dy, dx), *_eigenvalues(*tensor), *_eigenvalues(yy, yx, xx)]
    return np.stack(values, axis=2)


def _eigenvalues(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Of the symmetric matrices [[a, b], [b, c]], the larger first."""
    mean, apart = (a + c) / 2, np.hypot((a - c) / 2, b)
    return np.asarray(mean + apart, np.float32), np.asarray(mean - apart, np.float32)


class PixelClassifier:
    """Learns from marks on one image or several, and says of every pixel what it is.

    Raises:
        UserError: scikit-learn is not installed.
    """

    def __init__(self, config: Config | None = None) -> None:
        try:
            from sklearn.ensemble import RandomForestClassifier
        except ImportError as error:
            raise UserError(MISSING) from error
        self.config = config or Config()
        self.forest = RandomForestClassifier(
            self.config.trees, max_depth=self.config.depth, class_weight="balanced_subsample", random_state=0
        )

    def fit(self, images: list[NDArray[Any]], marks: list[NDArray[Any]]) -> PixelClassifier:
        """Learn.

        Args:
            images: (H, W) or (H, W, C), all of one number of channels.
            marks: (H, W) whole numbers of each: 0 where nothing is said, else the kind, 1..K.

        Raises:
            UserError: nothing, or only one kind, is marked.
        """
        rows, kinds = [], []
        for image, marked in zip(images, marks, strict=True):
            found = features(image, self.config.scales)
            for kind in np.unique(marked[marked > 0]):
                own = found[marked == kind]
                rows.append(own[:: max(1, len(own) // self.config.max_marked)])
                kinds.append(np.full(len(rows[-1]), kind))
        if len({int(kind[0]) for kind in kinds}) < 2:
            raise UserError("two kinds of pixels must be marked: scribble on the object and beside it")
        self.forest.fit(np.concatenate(rows), np.concatenate(kinds))
        return self

    def predict(self, image: NDArray[Any]) -> Floats:
        """(H, W, K) probabilities of the kinds that were marked, in ascending order."""
        found = features(image, self.config.scales)
        flat = self.forest.predict_proba(found.reshape(-1, found.shape[2]))
        return np.asarray(flat.reshape(*found.shape[:2], -1), np.float32)


class ForestOnMarks(Classic):
    """A pixel classifier that learns from the prompts and answers on the same image."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.brush)
        self.config = config

    def cut(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[Any]:
        kinds = np.where(marks.seeds == 0, 0, np.where(marks.seeds == OBJECT, 2, 1))
        if not (kinds == 2).any():
            kinds[marks.probable & (kinds == 0)] = 2
        return PixelClassifier(self.config).fit([image], [kinds]).predict(image)[..., 1]


def build(config: Config) -> ForestOnMarks:
    """With these settings."""
    return ForestOnMarks(config)
