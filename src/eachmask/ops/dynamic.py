"""Masks of networks that were predicted: three layers of 1 x 1 convolutions for each object.

The dynamic mask head of CondInst (Tian, Shen, Chen, arXiv 2003.05664, section 3.1), also RTMDet-Ins's. All objects of
an image share its mask features; what differs is the kernels, and where the object says that it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.ops.automatic_masks import without_small_regions
from eachmask.structures import RLE, Masks, SoftMasks
from eachmask.structures.bitmaps import Bitmaps
from eachmask.structures.masks import Index, as_index

WIDTH = 8
"""Channels of the two hidden layers (section 4.1 of the paper: more brings nothing)."""

PIXEL_CHUNK_SIZE = 1 << 20
"""Pixels of masks that are computed together without gradients: memory stays flat whatever the number of objects."""


class Places(NamedTuple):
    """Where objects are, for the two channels of relative coordinates."""

    points: Tensor  # (N, 2) as (x, y), px
    reach: Tensor  # (N,) px that count as 1
    stride: int  # px of a cell of the mask features
    first: float  # px, x and y of the first cell


class Kernels(NamedTuple):
    """The networks of all places of a pyramid: a 3 x 3 convolution that is only done where somebody asks.

    A few hundred of an image's thousands of places are ever asked, and with 169 channels out it takes as long as a
    tower's layer.

    >>> kernels = Kernels((torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)), nn.Conv2d(4, 169, 3, padding=1))
    >>> kernels.at(0, torch.tensor([5, 70])).shape  # a place of either level
    torch.Size([2, 169])
    """

    levels: tuple[Tensor, ...]  # (B, C, H, W) each
    controller: nn.Conv2d  # with padding 1

    def at(self, image: int, places: Tensor) -> Tensor:
        """The networks of some of an image's places.

        Args:
            places: (N,) in 0.., of all levels one after the other, each row by row.

        Returns:
            (N, P).
        """
        weight, bias = self.controller.weight, self.controller.bias
        around = weight.new_zeros(len(places), 3, 3, weight.shape[1])
        for i, here, cells in on_levels(self.levels, places):
            around = around.index_put((here,), patches_around(self.levels[i][image], cells, 1).to(around))
        return F.linear(around.flatten(1), weight.permute(0, 2, 3, 1).flatten(1), bias)


def on_levels(levels: Sequence[Tensor], places: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Which of some places lie on each level of a pyramid, for levels where any do.

    Args:
        levels: (..., H, W) each.
        places: (N,) in 0.., of all levels one after the other, each row by row.

    Yields:
        number of the level; the rows of ``places`` (M,) that lie on it; and their cells (M,) in 0..H W - 1.

    >>> levels = [torch.ones(2, 2), torch.ones(1, 1)]
    >>> [(i, rows.tolist(), cells.tolist()) for i, rows, cells in on_levels(levels, torch.tensor([3, 4, 1]))]
    [(0, [0, 2], [3, 1]), (1, [1], [0])]
    """
    first = 0
    for i, level in enumerate(levels):
        count = level.shape[-2] * level.shape[-1]
        here = torch.nonzero((places >= first) & (places < first + count)).squeeze(1)
        if len(here):
            yield i, here, places[here] - first
        first += count


def patches_around(level: Tensor, cells: Tensor, reach: int) -> Tensor:
    """The squares around some cells of a map; 0 beyond its border.

    Args:
        level: (C, H, W).
        cells: (N,) in 0..H W - 1, row by row.
        reach: cells to each side.

    Returns:
        (N, 2 reach + 1, 2 reach + 1, C).

    >>> patches_around(torch.ones(1, 2, 2), torch.tensor([0]), 1)[0, :, :, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    height, width = level.shape[1:]
    along = torch.arange(-reach, reach + 1, device=cells.device)
    y, x = (cells // width)[:, None] + along, (cells % width)[:, None] + along  # (N, side)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    index = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    return level.permute(1, 2, 0).flatten(0, 1)[index].masked_fill(~inside[..., None], 0)


class MaskNetworks(NamedTuple):
    """The masks of one image's objects, before anybody needs the pixels."""

    features: Tensor  # (C, H, W) that all networks read
    kernels: Tensor  # (N, P), see :func:`apply_networks`
    places: Places


def num_kernel_weights(channels: int) -> int:
    """Parameters of one object's network: 169 for 8 channels of mask features.

    >>> num_kernel_weights(8)
    169
    """
    return (channels + 2) * WIDTH + WIDTH * WIDTH + WIDTH + WIDTH + WIDTH + 1


def apply_networks(features: Tensor, kernels: Tensor, places: Places) -> Tensor:
    """Logits of N masks: kernels * [relative coordinates, features] (equation before section 3.2).

    A relative coordinate, (point - place of the cell) / reach, is linear in the cell's place, and so is the first
    layer: the object's point and reach go into its weights, and all objects read one map of places.

    Args:
        features: (C, H, W) of one image.
        kernels: (N, P): the three layers' weights, then their biases; P = :func:`num_kernel_weights`.

    Returns:
        (N, H, W), in float32.

    >>> places = Places(torch.tensor([[16.0, 16.0]]), torch.tensor([64.0]), stride=8, first=4.0)
    >>> apply_networks(torch.zeros(8, 4, 6), torch.zeros(1, 169), places).shape
    torch.Size([1, 4, 6])
    """
    channels, height, width = features.shape
    count, inputs = len(kernels), channels + 2
    shares = (inputs * WIDTH, WIDTH * WIDTH, WIDTH, WIDTH, WIDTH, 1)
    w1, w2, w3, b1, b2, b3 = kernels.float().split(shares, dim=1)
    w1 = w1.view(count, WIDTH, inputs)
    scaled = w1[:, :, :2] / places.reach.to(w1)[:, None, None]
    constant = b1 + (scaled * places.points.to(w1)[:, None]).sum(-1)
    first = torch.cat([-scaled, w1[:, :, 2:], constant[..., None]], dim=-1).flatten(0, 1)  # (8 N, C + 3)
    x = (first @ _plane(features.float(), places)).relu_().view(count, WIDTH, height * width)
    x = torch.baddbmm(b2[..., None], w2.view(count, WIDTH, WIDTH), x).relu_()
    x = torch.baddbmm(b3[..., None], w3.view(count, 1, WIDTH), x)
    return x.view(count, height, width)


def apply_in_groups(features: Tensor, kernels: Tensor, places: Places) -> Iterator[Tensor]:
    """Logits of a few masks at a time, for prediction; (0, H, W) once where there is no object.

    Args and shapes as for :func:`apply_networks`.

    >>> places = Places(torch.tensor([[16.0, 16.0]]), torch.tensor([64.0]), stride=8, first=4.0)
    >>> [logits.shape for logits in apply_in_groups(torch.zeros(8, 4, 6), torch.zeros(1, 169), places)]
    [torch.Size([1, 4, 6])]
    """
    chunk_size = max(1, PIXEL_CHUNK_SIZE // max(features[0].numel(), 1))
    for first in range(0, max(len(kernels), 1), chunk_size):
        rows = slice(first, first + chunk_size)
        some = places._replace(points=places.points[rows], reach=places.reach[rows])
        yield apply_networks(features, kernels[rows], some)


@dataclass(eq=False, repr=False)
class DynamicMasks(Masks):
    """N masks as the networks that compute them: a few hundred numbers each, until somebody needs the pixels.

    However many objects there are and however large the image, only one group of maps exists at a time.

    >>> places = Places(torch.tensor([[16.0, 16.0]]), torch.tensor([64.0]), stride=8, first=4.0)
    >>> kernels = torch.zeros(1, 169)
    >>> kernels[:, -1] = 5.0  # the last bias: all of the image
    >>> masks = DynamicMasks(torch.zeros(8, 4, 4), kernels, places, (32, 32), (32, 32), (64, 64), 0.5)
    >>> len(masks), masks.to_rle().area().tolist()
    (1, [4096])
    """

    features: Tensor
    """(C, H, W) of the image."""
    kernels: Tensor
    """(N, P), see :func:`apply_networks`."""
    places: Places
    padded: tuple[int, int]
    """(height, width) that the maps are first resized to; see :class:`~eachmask.structures.soft_masks.Canvas`."""
    valid: tuple[int, int]
    """(height, width) of the image in there."""
    size: tuple[int, int]
    """(height, width) of the canvas: what the image is resized to."""
    threshold: float
    """A pixel belongs to the object from this probability on."""
    aligned: bool = False
    """CondInst doubles the logits and resizes probabilities, cells where their places are (:func:`aligned_upsample`);
    RTMDet-Ins resizes the logits."""
    least_region: float = 0.0
    """Regions smaller than this share of their mask are left out, the largest never; they hang together over corners
    too."""
    _rle: RLE | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.kernels)

    def __getitem__(self, index: Index) -> DynamicMasks:
        rows = torch.from_numpy(as_index(index, len(self))).to(self.kernels.device)
        places = self.places._replace(points=self.places.points[rows], reach=self.places.reach[rows])
        return replace(self, kernels=self.kernels[rows], places=places)

    def to(self, device: torch.device | str) -> DynamicMasks:
        """Features and kernels on another device, where the masks will be computed."""
        places = self.places._replace(points=self.places.points.to(device), reach=self.places.reach.to(device))
        return replace(self, features=self.features.to(device), kernels=self.kernels.to(device), places=places)

    def resize(self, size: tuple[int, int]) -> DynamicMasks:
        """Only the last size changes: pixels are never resized twice."""
        return replace(self, size=(int(size[0]), int(size[1])))

    def to_rle(self) -> RLE:
        if self._rle is None:
            masks = Masks.cat([maps.resize(self.size).to_rle() for maps in self._maps()])
            self._rle = without_specks(masks, self.least_region) if self.least_region else masks
        return self._rle

    @torch.no_grad()
    def _maps(self) -> Iterator[SoftMasks]:
        """A few masks at a time, cropped."""
        probability = min(max(self.threshold, 1e-6), 1 - 1e-6)
        level = float(np.log(probability / (1 - probability)))
        for logits in apply_in_groups(self.features, self.kernels, self.places):
            if self.aligned:
                maps = aligned_upsample(logits[:, None], 2)[:, 0].sigmoid()
                yield SoftMasks.from_maps(maps, self.padded, self.valid, probability, "corners")
            else:
                yield SoftMasks.from_maps(logits, self.padded, self.valid, level)


def without_specks(masks: Masks, share: float) -> RLE:
    """Masks without regions smaller than a share of them.

    >>> masks = RLE.from_bitmaps(np.array([[[1, 1, 1, 0, 1]]]))
    >>> without_specks(masks, 0.25).area().tolist(), without_specks(masks, 0.5).area().tolist()
    ([4], [3])
    """
    found = masks.to_bitmaps()
    areas = masks.area()
    crops = [
        without_small_regions(crop, math.ceil(share * area), holes=False)[0] if area else crop
        for crop, area in zip(found.crops, areas.tolist(), strict=True)
    ]
    return Bitmaps(crops, found.origins, found.size).to_rle()


def aligned_upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear magnification that puts cell i at pixel (i + 1/2) * factor instead of half a pixel before it.

    So a cell of every level keeps to the image coordinates of its FCOS place. Borders are repeated.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, factor H, factor W).

    >>> aligned_upsample(torch.tensor([[[[0.0, 4.0]]]]), 2)[0, 0, 0].tolist()
    [0.0, 0.0, 2.0, 4.0]
    """
    if factor == 1:
        return x
    height, width = x.shape[-2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[..., : factor * height, : factor * width]


def every_fourth(masks: Masks, shape: tuple[int, int], step: int = 4, first: int | None = None) -> Tensor:
    """Masks of targets as the mask loss wants them: of each 4 x 4 px the one in the third row and column.

    Args:
        masks: of N objects.
        shape: (rows, columns) of the result; cells outside the image are 0.
        first: row and column of the first pixel taken; by default half a step.

    Returns:
        (N, rows, columns) float, 0 or 1.

    >>> mask = np.zeros((1, 8, 8), bool)
    >>> mask[0, :4, :4] = True
    >>> every_fourth(RLE.from_bitmaps(mask), (2, 2)).tolist()
    [[[1.0, 0.0], [0.0, 0.0]]]
    """
    result = np.zeros((len(masks), *shape), np.float32)
    bitmaps = masks.to_bitmaps()
    first = step // 2 if first is None else first
    for target, crop, (x, y) in zip(result, bitmaps.crops, bitmaps.origins.tolist(), strict=True):
        top, left = (first - y) % step, (first - x) % step
        part = crop[top::step, left::step]
        row, column = (y + top) // step, (x + left) // step
        window = target[row : row + part.shape[0], column : column + part.shape[1]]
        window[:] = part[: window.shape[0], : window.shape[1]]
    return torch.from_numpy(result)


def _plane(features: Tensor, places: Places) -> Tensor:
    """What the folded first layer reads: x, y, the features and 1 of every cell, (C + 3, H W)."""
    _, height, width = features.shape
    xs = places.first + places.stride * torch.arange(width, dtype=torch.float32, device=features.device)
    ys = places.first + places.stride * torch.arange(height, dtype=torch.float32, device=features.device)
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])
    return torch.cat([grid, features, torch.ones_like(features[:1])]).flatten(1)
