"""Normalized cuts: an image falls into segments, and prompts choose among them.

Shi, Malik: "Normalized Cuts and Image Segmentation", TPAMI 2000, on superpixels (Achanta et al., "SLIC", TPAMI 2012),
see :mod:`eachmask.ops.normalized_cut`.

The idea: a good segmentation does not only cut few and weak links between pixels, for then it would cut off single
ones; it cuts little compared with all that each side is linked with. Segments are there before anybody asks: a point
means the segment that it lies in, several mean all of theirs, and a box or a rough mask those that mostly lie inside.
Points beside the object say nothing new: what is not chosen is not the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.promptable.answering import Answers, Raw
from eachmask.models.promptable.without_learning import OBJECT, BrushConfig, Classic, Marks
from eachmask.ops.normalized_cut import normalized_cuts, region_graph
from eachmask.structures import DecodeOptions


@dataclass(frozen=True)
class Config:
    """What may be changed."""

    brush: BrushConfig = BrushConfig(max_side=400)
    superpixels: int = 300
    compactness: float = 15.0
    """Of the superpixels: larger means squarer."""
    sigma: float = 255.0
    """Regions are linked by exp(-d^2 / sigma) of their mean colors' distance."""
    threshold: float = 0.001
    """A part is parted again while that costs less: larger means more segments."""


class NormalizedCuts(Classic):
    """Shi and Malik's segments."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.brush)
        self.config = config

    def segments(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(H, W) of 0, 1, ...: all segments of an image (H, W, 3)."""
        from skimage.segmentation import slic

        config = self.config
        found = slic(image, n_segments=config.superpixels, compactness=config.compactness, start_label=1)
        _, regions = np.unique(found, return_inverse=True)
        regions = regions.reshape(found.shape)
        pairs, weights = region_graph(image, regions, config.sigma)
        parts = normalized_cuts(int(regions.max()) + 1, pairs, weights, config.threshold)
        return np.asarray(parts[regions])

    def cut(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[np.bool_]:
        segments = self.segments(image)
        num = int(segments.max()) + 1
        inside = np.bincount(segments.ravel(), marks.probable.ravel(), minlength=num)
        chosen = inside > 0.5 * np.bincount(segments.ravel(), minlength=num)
        chosen[np.unique(segments[marks.seeds == OBJECT])] = True
        return np.asarray(chosen[segments])

    def select(self, raw: Raw, options: DecodeOptions) -> Answers:
        """What prompts mean; without prompts all segments."""
        if raw.prompts is not None:
            return super().select(raw, options)
        whole = [self._all(x[:, :h, :w]) for x, (h, w) in zip(raw.images, raw.sizes, strict=True)]
        return Answers(raw.sizes, tuple(whole))

    def _all(self, image: Tensor) -> Tensor:
        """(3, h, w) -> (N, h, w)."""
        found = torch.from_numpy(self.segments(self.reduced(image)))
        maps = torch.stack([found == i for i in range(int(found.max()) + 1)]).float()
        return F.interpolate(maps[None], image.shape[1:], mode="nearest")[0]


def build(config: Config) -> NormalizedCuts:
    """With these settings."""
    return NormalizedCuts(config)
