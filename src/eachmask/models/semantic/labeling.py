"""What all networks that label pixels share: scores of every class on a grid, how they are learnt, how labels are read.

A network says (B, K, h, w) logits on any grid over the padded batch. Losses are taken at the batch's size, where labels
are; :meth:`Labeling.select` finds the best class of each pixel without ever having K scores for it (see
:class:`~eachmask.structures.class_scores.ClassScores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eachmask.models.protocol import Network
from eachmask.ops import pixel_losses
from eachmask.structures import DecodeOptions, SemanticMap
from eachmask.structures.class_scores import ClassScores
from eachmask.tasks.semantic import SEMANTIC


class Raw(NamedTuple):
    """What the network says."""

    logits: Tensor  # (B, K, h, w), over the padded batch
    aux: Tensor | None  # (B, K, h', w'), of a head that only helps in training
    padded: tuple[int, int]  # (height, width) of the batch, px
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    fine: Tensor | None = None  # (B, C, h, w): features, where logits are refined by them


class Selected(NamedTuple):
    """The labels of each image, and what they are the best of."""

    labels: tuple[Tensor, ...]  # (h, w) int64
    grids: Tensor  # (B, K, h, w)
    extents: tuple[tuple[float, float], ...]  # of each image on its grid, cells
    aligned: bool = False  # see ClassScores


@dataclass(frozen=True)
class PixelLoss:
    """What is summed; a weight of 0 leaves a part out."""

    cross_entropy: float = 1.0
    dice: float = 0.0
    lovasz: float = 0.0
    gamma: float = 0.0
    """Of the focal form of cross-entropy; 0 is plain."""
    hard: float = 1.0
    """Share of the pixels whose cross-entropy counts, the hardest ones."""
    mean_over: Literal["known", "all"] = "known"
    """Of cross-entropy: the pixels that count, or all of them, padding too, as MMSegmentation has it."""
    class_weights: tuple[float, ...] = ()
    """Of cross-entropy, by class; () are all alike."""


class Labeling(Network[Raw, Selected, SemanticMap]):
    """A network that labels pixels; subclasses write ``forward`` and may have ``aux_weight``."""

    task = SEMANTIC
    suppresses = False
    loss: PixelLoss = PixelLoss()
    aux_weight: float = 0.4
    aligned: bool = False
    """Maps are resized with their corners aligned (``align_corners=True``)."""
    resized_twice: bool = False
    """Scores for an image's own size are interpolated from those at the size that the network saw."""

    def losses(self, raw: Raw, targets: list[SemanticMap]) -> dict[str, Tensor]:
        """Those of :class:`PixelLoss`, of logits at the batch's size; ignored pixels and padding do not count.

        Args:
            targets: one label map per image, of the size that is valid.
        """
        labels = batch_labels(targets, raw.padded).to(raw.logits.device)
        found = self._pixel_losses(raw.logits, labels, raw.padded)
        if raw.aux is not None:
            aux = self._pixel_losses(raw.aux, labels, raw.padded)
            found |= {f"aux_{name}": self.aux_weight * value for name, value in aux.items()}
        return found

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """The best class of each pixel, by bilinear interpolation of the logits."""
        grids = self.grids(raw)
        extents = tuple(extent_of(size, grids.shape[-2:], raw.padded, self.aligned) for size in raw.sizes)
        pairs = zip(grids, extents, raw.sizes, strict=True)
        labels = tuple(ClassScores(grid, extent, self.aligned).labels(size) for grid, extent, size in pairs)
        return Selected(labels, grids, extents, self.aligned)

    def grids(self, raw: Raw) -> Tensor:
        """(B, K, h, w): the logits of which labels are the best."""
        return raw.logits

    def pack(self, selected: Selected, options: DecodeOptions) -> list[SemanticMap]:
        """One map per image, with the scores that it can be resized by."""
        ignore = 255 if self.num_classes <= 255 else 65535
        maps = []
        for labels, grid, extent in zip(selected.labels, selected.grids, selected.extents, strict=True):
            through = (int(labels.shape[0]), int(labels.shape[1])) if self.resized_twice else None
            scores = ClassScores(grid, extent, selected.aligned, through)
            maps.append(SemanticMap(labels, ignore=ignore, scores=scores))
        return maps

    def _pixel_losses(self, logits: Tensor, labels: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        logits = resized(logits.float(), size, self.aligned)
        c = self.loss
        found: dict[str, Tensor] = {}
        if c.cross_entropy:
            weights = torch.tensor(c.class_weights) if c.class_weights else None
            known = pixel_losses.cross_entropy(logits, labels, weights, c.gamma, c.hard)
            share = (labels != pixel_losses.IGNORED).float().mean() if c.mean_over == "all" else 1.0
            found["pixels"] = c.cross_entropy * share * known
        if c.dice:
            found["dice"] = c.dice * pixel_losses.soft_dice(logits, labels)
        if c.lovasz:
            found["lovasz"] = c.lovasz * pixel_losses.lovasz_softmax(logits, labels)
        return found


def resized(maps: Tensor, size: Sequence[int], aligned: bool = False) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear between the centers of cells, see ``Labeling.aligned``."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=aligned)


def extent_of(
    size: tuple[int, int], cells: Sequence[int], padded: tuple[int, int], aligned: bool = False
) -> tuple[float, float]:
    """Rows and columns that an image of this size takes up of the grid over its padded batch."""
    less = int(aligned)
    rows, columns = (
        (valid - less) * (count - less) / max(whole - less, 1)
        for valid, count, whole in zip(size, cells, padded, strict=True)
    )
    return rows, columns


def batch_labels(targets: Sequence[SemanticMap], padded: tuple[int, int]) -> Tensor:
    """(B, H, W) int64 labels of a padded batch; -1 does not count."""
    labels = torch.full((len(targets), *padded), pixel_losses.IGNORED, dtype=torch.int64)
    for slot, target in zip(labels, targets, strict=True):
        height, width = target.image_size
        own = target.labels.long()
        slot[:height, :width] = torch.where(own == target.ignore, pixel_losses.IGNORED, own)
    return labels
